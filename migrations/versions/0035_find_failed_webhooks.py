"""Failed and canceled deliveries, few among many, are listed and counted by an index of their own."""

from alembic import op

revision = "0035"
down_revision = "0034"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS webhook_deliveries_failed")  # of an upgrade that was interrupted
        op.execute("""CREATE INDEX CONCURRENTLY webhook_deliveries_failed
          ON webhook_deliveries (organization_id, endpoint_id, status, created_at DESC, id DESC)
          WHERE status IN ('failed', 'canceled')""")


def downgrade() -> None:
    op.execute("DROP INDEX webhook_deliveries_failed")
