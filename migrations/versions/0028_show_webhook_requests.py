"""Attempts keep the request as it was sent: its headers and the format of its body."""

from alembic import op

revision = "0028"
down_revision = "0027"

UP = """
-- NULL for the attempts before, whose requests nobody knows any more.
ALTER TABLE webhook_attempts ADD COLUMN payload_format text, ADD COLUMN request_headers json;

-- First not validated, so that the table is not locked while the rows are read.
ALTER TABLE webhook_attempts ADD CONSTRAINT webhook_attempts_payload_format
  CHECK (payload_format IN ('full', 'thin')) NOT VALID;

ALTER TABLE webhook_attempts VALIDATE CONSTRAINT webhook_attempts_payload_format;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute("ALTER TABLE webhook_attempts DROP COLUMN request_headers, DROP COLUMN payload_format")
