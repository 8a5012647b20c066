"""Held webhooks can be given back, and results of attempts stay on their pages."""

from alembic import op

revision = "0022"
down_revision = "0021"

UP = """
-- The attempt of a delivery that was claimed and never sent.
GRANT DELETE ON webhook_attempts TO saas_tenant;

-- No index holds what a result changes, so with room on its page the new version of an attempt needs no index entry.
ALTER TABLE webhook_attempts SET (fillfactor = 70);

ALTER TABLE webhook_endpoints SET (fillfactor = 50);
"""
DOWN = """
ALTER TABLE webhook_endpoints RESET (fillfactor);

ALTER TABLE webhook_attempts RESET (fillfactor);

REVOKE DELETE ON webhook_attempts FROM saas_tenant;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UP, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
