"""Messages of every status that has ended are listed and counted by one index, as failed and canceled ones were."""

from alembic import op

revision = "0040"
down_revision = "0039"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS messages_ended")  # of an upgrade that was interrupted
        op.execute("""CREATE INDEX CONCURRENTLY messages_ended
          ON messages (organization_id, status, accepted_at DESC, id DESC)
          WHERE status IN ('sent', 'delivered', 'failed', 'canceled')""")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS messages_unsent")


def downgrade() -> None:
    op.execute("""CREATE INDEX messages_unsent ON messages (organization_id, status, accepted_at DESC, id DESC)
      WHERE status IN ('failed', 'canceled')""")
    op.execute("DROP INDEX messages_ended")
