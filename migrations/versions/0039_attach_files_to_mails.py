"""Which file a mail carries: rendered when the mail is sent, so it is stored nowhere twice."""

from alembic import op

revision = "0039"
down_revision = "0038"

# Such as {"kind": "invoice", "id": "..."}, of the organization of the mail.
UP = """
ALTER TABLE mails ADD COLUMN attachment jsonb;

ALTER TABLE mails ADD CONSTRAINT mails_attachment_has_owner
  CHECK (attachment IS NULL OR organization_id IS NOT NULL) NOT VALID;
"""
VALIDATE = "ALTER TABLE mails VALIDATE CONSTRAINT mails_attachment_has_owner"


def upgrade() -> None:
    op.execute(UP)
    with op.get_context().autocommit_block():
        op.execute(VALIDATE)


def downgrade() -> None:
    op.execute("ALTER TABLE mails DROP COLUMN attachment")
