"""Organizations can be spread over cells: a directory of them, and what a cell knows of those that left it."""

from alembic import op

revision = "0026"
down_revision = "0025"

UP = """
CREATE TABLE organization_cells (  -- the directory, in the home cell; an organization without a row is at home
  id uuid PRIMARY KEY, cell text NOT NULL, moving_to text);

CREATE TABLE absent_organizations (  -- moving or gone: rows that are left of them here are hidden
  id uuid PRIMARY KEY, has_left boolean NOT NULL DEFAULT false);  -- every row that moves was deleted here

CREATE TABLE moved_numbers (  -- of invoices and credit notes; numbers without gaps are counted in their own cell
  series text, serial bigint, has_left boolean NOT NULL, PRIMARY KEY (series, serial));

GRANT SELECT, INSERT, UPDATE, DELETE ON organization_cells TO saas_system;

GRANT SELECT ON absent_organizations, moved_numbers TO saas_system;

-- For the policies that flask db upgrade adds where there are cells. The account functions of the home cell see all.
CREATE FUNCTION hidden_organizations() RETURNS uuid[] LANGUAGE sql STABLE SECURITY DEFINER
  SET search_path = public, pg_temp AS $$
  SELECT CASE WHEN current_setting('app.sees_absent', true) = 'on' THEN '{}'::uuid[]
              ELSE ARRAY(SELECT id FROM absent_organizations) END $$;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.execute("DROP FUNCTION hidden_organizations CASCADE")
    op.execute("DROP TABLE moved_numbers, absent_organizations, organization_cells")
