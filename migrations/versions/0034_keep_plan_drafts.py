"""Drafts of plans, which operators edit in the console."""

from functools import partial

from alembic import op

revision = "0034"
down_revision = "0033"

SCHEMA = """
CREATE TABLE plan_drafts (
  id text PRIMARY KEY,  -- the version that it follows, or the code of a new plan
  document json NOT NULL,  -- json and not jsonb: operators find the order that they wrote
  revision int NOT NULL CHECK (revision > 0), updated_by uuid NOT NULL, updated_at timestamptz NOT NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON plan_drafts TO saas_system;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    run(SCHEMA)


def downgrade() -> None:
    op.execute("DROP TABLE plan_drafts")
