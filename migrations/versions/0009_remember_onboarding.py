"""Remember per member that the first steps were put away."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("ALTER TABLE memberships ADD COLUMN onboarding_dismissed_at timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE memberships DROP COLUMN onboarding_dismissed_at")
