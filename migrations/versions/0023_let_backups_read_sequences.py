"""Let backups read the position of every sequence."""

from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.execute("GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO saas_system")


def downgrade() -> None:
    op.execute("REVOKE SELECT ON ALL SEQUENCES IN SCHEMA public FROM saas_system")
