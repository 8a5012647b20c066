"""Events and endpoints have a mode, and events reach endpoints of their own mode only."""

from alembic import op

revision = "0032"
down_revision = "0031"

# Checks are validated by 0033.
UP = """
ALTER TABLE webhook_endpoints ADD COLUMN mode text NOT NULL DEFAULT 'live';

ALTER TABLE webhook_endpoints ADD CONSTRAINT webhook_endpoints_mode CHECK (mode IN ('live', 'test')) NOT VALID;

ALTER TABLE events ADD COLUMN mode text NOT NULL DEFAULT 'live';

ALTER TABLE events ADD CONSTRAINT events_mode CHECK (mode IN ('live', 'test')) NOT VALID;

SET LOCAL ROLE saas_system;

-- Every endpoint so far is live, so no endpoint is left that may receive an event of test mode again.
DELETE FROM events WHERE payload::json ->> 'mode' = 'test';

RESET ROLE;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute("ALTER TABLE events DROP COLUMN mode")
    op.execute("ALTER TABLE webhook_endpoints DROP COLUMN mode")
