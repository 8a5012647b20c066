"""The console's lists of invoices, mails and users read a page of them by an index instead of sorting the table."""

from alembic import op

revision = "0043"
down_revision = "0042"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # What an interrupted upgrade left.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS invoices_newest")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS invoices_by_state")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS mails_newest")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS mails_by_status")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS users_newest")
        op.execute("CREATE INDEX CONCURRENTLY invoices_newest ON invoices (created_at DESC, id DESC)")
        op.execute("CREATE INDEX CONCURRENTLY invoices_by_state ON invoices (state, created_at DESC, id DESC)")
        op.execute("CREATE INDEX CONCURRENTLY mails_newest ON mails (created_at DESC, id DESC)")
        op.execute("CREATE INDEX CONCURRENTLY mails_by_status ON mails (status, created_at DESC, id DESC)")
        op.execute("CREATE INDEX CONCURRENTLY users_newest ON users (created_at DESC, id DESC)")


def downgrade() -> None:
    op.execute("DROP INDEX invoices_newest, invoices_by_state, mails_newest, mails_by_status, users_newest")
