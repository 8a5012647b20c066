"""Let organizations read which of their members are disabled."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.execute("GRANT SELECT (disabled_at) ON users TO saas_tenant")


def downgrade() -> None:
    op.execute("REVOKE SELECT (disabled_at) ON users FROM saas_tenant")
