"""Times in which an organization pays no base amount and no minimum, because an operator has suspended it."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0017"
down_revision = "0016"

SCHEMA = """
CREATE TABLE billing_pauses (
  organization_id uuid NOT NULL REFERENCES organizations, starts_at timestamptz NOT NULL, ends_at timestamptz,
  PRIMARY KEY (organization_id, starts_at), CHECK (starts_at < ends_at));

CREATE UNIQUE INDEX billing_pauses_open ON billing_pauses (organization_id) WHERE ends_at IS NULL;
"""
GRANTS = """
GRANT SELECT ON billing_pauses TO saas_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON billing_pauses TO saas_system;
"""
# Suspensions of earlier versions stay charged: only what follows the upgrade is paused.
SUSPENDED_NOW = """
SET LOCAL ROLE saas_system;
INSERT INTO billing_pauses (organization_id, starts_at) SELECT id, now() FROM organizations WHERE status = 'suspended';
RESET ROLE;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    for statements in (SCHEMA, isolate("billing_pauses"), GRANTS, SUSPENDED_NOW):
        run(statements)


def downgrade() -> None:
    op.execute("DROP TABLE billing_pauses")
