"""Two-factor sign-in: the secret of a user's authenticator app, and recovery codes."""

from functools import partial

from alembic import op

revision = "0037"
down_revision = "0036"

SCHEMA = """
CREATE TABLE two_factor_secrets (
  user_id uuid PRIMARY KEY REFERENCES users,
  secret_encrypted bytea NOT NULL,
  last_step bigint NOT NULL DEFAULT 0,  -- of the newest code that was accepted; that code and older ones are refused
  confirmed_at timestamptz,  -- when it was turned on; before, sign-in does not ask for a code
  created_at timestamptz NOT NULL DEFAULT now());

CREATE TABLE recovery_codes (  -- only digests are kept
  user_id uuid NOT NULL REFERENCES users, digest bytea NOT NULL, used_at timestamptz,
  PRIMARY KEY (user_id, digest));

GRANT SELECT, INSERT, UPDATE, DELETE ON two_factor_secrets, recovery_codes TO saas_system;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    run(SCHEMA)


def downgrade() -> None:
    op.execute("DROP TABLE recovery_codes, two_factor_secrets")
