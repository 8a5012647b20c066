"""Validate the checks of 0028, 0031 and 0032, delete old events of test mode, and index later ones, few among many."""

from alembic import op

revision = "0033"
down_revision = "0032"

# Reads the tables while others write to them, unlike in the transactions that added the checks and columns.
VALIDATE = """
SET LOCAL ROLE saas_system;

-- Every endpoint so far is live, so no endpoint is left that may receive an event of test mode again.
DELETE FROM events WHERE payload::json ->> 'mode' = 'test' AND mode = 'live';

RESET ROLE;

ALTER TABLE webhook_attempts VALIDATE CONSTRAINT webhook_attempts_payload_format;

ALTER TABLE organizations VALIDATE CONSTRAINT organizations_locale;

ALTER TABLE webhook_endpoints VALIDATE CONSTRAINT webhook_endpoints_mode;

ALTER TABLE events VALIDATE CONSTRAINT events_mode;
"""


def upgrade() -> None:
    op.execute(VALIDATE)
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS events_test")  # of an upgrade that was interrupted
        op.execute("""CREATE INDEX CONCURRENTLY events_test ON events (organization_id, sequence DESC)
          WHERE mode = 'test'""")


def downgrade() -> None:
    op.execute("DROP INDEX events_test")
