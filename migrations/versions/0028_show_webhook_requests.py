"""Attempts keep the request as it was sent: its headers and the format of its body."""

from alembic import op

revision = "0028"
down_revision = "0027"

UP = """
-- NULL for the attempts before, whose requests nobody knows any more.
ALTER TABLE webhook_attempts ADD COLUMN payload_format text, ADD COLUMN request_headers json;

-- Validated by 0033, so that the table is not locked while its rows are read.
ALTER TABLE webhook_attempts ADD CONSTRAINT webhook_attempts_payload_format
  CHECK (payload_format IN ('full', 'thin')) NOT VALID;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute("ALTER TABLE webhook_attempts DROP COLUMN request_headers, DROP COLUMN payload_format")
