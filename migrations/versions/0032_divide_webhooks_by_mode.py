"""Events and endpoints have a mode, and events reach endpoints of their own mode only."""

from alembic import op

revision = "0032"
down_revision = "0031"

# 0033 validates the checks and deletes stored events of test mode: it locks neither table.
UP = """
ALTER TABLE webhook_endpoints ADD COLUMN mode text NOT NULL DEFAULT 'live';

ALTER TABLE webhook_endpoints ADD CONSTRAINT webhook_endpoints_mode CHECK (mode IN ('live', 'test')) NOT VALID;

ALTER TABLE events ADD COLUMN mode text NOT NULL DEFAULT 'live';

ALTER TABLE events ADD CONSTRAINT events_mode CHECK (mode IN ('live', 'test')) NOT VALID;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute("ALTER TABLE events DROP COLUMN mode")
    op.execute("ALTER TABLE webhook_endpoints DROP COLUMN mode")
