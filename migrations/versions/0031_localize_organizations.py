"""Organizations have a locale, by which numbers, amounts and times are written for their members."""

from alembic import op

revision = "0031"
down_revision = "0030"

UP = """
ALTER TABLE organizations ADD COLUMN locale text DEFAULT 'en-US' NOT NULL;

-- Validated by 0033, so that the table is not locked while its rows are read.
ALTER TABLE organizations ADD CONSTRAINT organizations_locale CHECK (locale ~ '^en-([A-Z]{2}|[0-9]{3})$') NOT VALID;

GRANT UPDATE (locale) ON organizations TO saas_tenant;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute("ALTER TABLE organizations DROP COLUMN locale")
