"""A user's change of email address, until its link is opened."""

from functools import partial

from alembic import op

revision = "0038"
down_revision = "0037"

SCHEMA = """
CREATE TABLE email_changes (  -- a new request replaces the one before
  user_id uuid PRIMARY KEY REFERENCES users,
  email text NOT NULL, digest bytea NOT NULL UNIQUE,  -- of the link's token
  expires_at timestamptz NOT NULL, created_at timestamptz NOT NULL DEFAULT now());

GRANT SELECT, INSERT, UPDATE, DELETE ON email_changes TO saas_system;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    run(SCHEMA)


def downgrade() -> None:
    op.execute("DROP TABLE email_changes")
