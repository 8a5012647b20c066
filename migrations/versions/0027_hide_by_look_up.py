"""Policies look an absent organization up; external ids are unique over all cells."""

from alembic import op

revision = "0027"
down_revision = "0026"

UP = """
GRANT SELECT ON absent_organizations TO saas_tenant;

ALTER TABLE absent_organizations ENABLE ROW LEVEL SECURITY;

CREATE POLICY tenant ON absent_organizations TO saas_tenant USING (id = (SELECT current_organization()));

CREATE POLICY system ON absent_organizations TO saas_system USING (true);

-- In the home cell, of organizations in every cell.
CREATE TABLE external_ids (
  external_id text PRIMARY KEY, owner_id uuid NOT NULL, UNIQUE (owner_id, external_id));

GRANT SELECT, INSERT, UPDATE, DELETE ON external_ids TO saas_system;

SET LOCAL ROLE saas_system;

SELECT set_config('app.sees_absent', 'on', true);

INSERT INTO external_ids SELECT external_id, id FROM organizations WHERE external_id IS NOT NULL;

SELECT set_config('app.sees_absent', '', true);

RESET ROLE;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    down = """
DO $$ DECLARE t text; BEGIN
  FOR t IN SELECT tablename FROM pg_policies WHERE schemaname = 'public' AND policyname = 'present' LOOP
    EXECUTE format('DROP POLICY present ON %I', t); END LOOP; END $$;

DROP TABLE external_ids;

DROP POLICY tenant ON absent_organizations;

DROP POLICY system ON absent_organizations;

ALTER TABLE absent_organizations DISABLE ROW LEVEL SECURITY;

REVOKE SELECT ON absent_organizations FROM saas_tenant;

CREATE OR REPLACE FUNCTION hidden_organizations() RETURNS uuid[] LANGUAGE sql STABLE SECURITY DEFINER
  SET search_path = public, pg_temp AS $$
  SELECT CASE WHEN current_setting('app.sees_absent', true) = 'on' THEN '{}'::uuid[]
              ELSE ARRAY(SELECT id FROM absent_organizations) END $$;
"""
    op.get_bind().exec_driver_sql(down, execution_options={"no_parameters": True})
