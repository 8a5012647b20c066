"""No organization loses its owner: the index says at most one, this trigger at least one."""

from functools import partial

from alembic import op

revision = "0006"
down_revision = "0005"

SCHEMA = """
CREATE FUNCTION keep_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM memberships WHERE organization_id = OLD.organization_id AND role = 'owner')
     AND EXISTS (SELECT FROM organizations WHERE id = OLD.organization_id) THEN
    RAISE EXCEPTION 'organization % would have no owner', OLD.organization_id
      USING ERRCODE = 'check_violation', CONSTRAINT = 'memberships_keep_owner', TABLE = 'memberships';
  END IF;
  RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER memberships_keep_owner AFTER UPDATE OR DELETE ON memberships
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.role = 'owner') EXECUTE FUNCTION keep_owner();
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    run(SCHEMA)


def downgrade() -> None:
    op.execute("DROP TRIGGER memberships_keep_owner ON memberships")
    op.execute("DROP FUNCTION keep_owner()")
