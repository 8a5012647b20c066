"""Store email addresses in one form; separate idempotency keys by mode; store the last failure of an endpoint."""

import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

ADDRESSES = (("users", "email"), ("invitations", "email"), ("organizations", "billing_email"), ("mails", "recipient"))

# Of several open invitations of one address, the newest stays open.
REVOKE_OLDER_INVITATIONS = """
UPDATE invitations i SET revoked_at = now() FROM invitations newer
 WHERE i.organization_id = newer.organization_id AND i.accepted_at IS NULL AND i.revoked_at IS NULL
   AND newer.accepted_at IS NULL AND newer.revoked_at IS NULL AND i.email = newer.email
   AND (i.created_at, i.id) < (newer.created_at, newer.id)
"""
IDEMPOTENCY = """
ALTER TABLE idempotency_keys
  DROP CONSTRAINT idempotency_keys_organization_id_fkey,  -- the id of a user who has no organization
  ADD COLUMN mode text NOT NULL DEFAULT 'live' CHECK (mode IN ('live', 'test')),
  DROP CONSTRAINT idempotency_keys_pkey, ADD PRIMARY KEY (organization_id, mode, key)
"""
IDEMPOTENCY_BEFORE = """
ALTER TABLE idempotency_keys
  DROP CONSTRAINT idempotency_keys_pkey, ADD PRIMARY KEY (organization_id, key), DROP COLUMN mode,
  ADD CONSTRAINT idempotency_keys_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES organizations
"""


def normalize(address: str) -> str:
    return unicodedata.normalize("NFC", address.strip().lower())


def check_users(connection: sa.Connection) -> None:
    """Refuse to continue when two accounts have the same address in the new form, which only a person can decide."""
    accounts: dict[str, list[str]] = {}
    for user_id, email in connection.execute(sa.text("SELECT id, email FROM users ORDER BY created_at, id")):
        accounts.setdefault(normalize(email), []).append(str(user_id))
    same = [f"{address}: {', '.join(ids)}" for address, ids in accounts.items() if len(ids) > 1]
    if same:
        raise RuntimeError(f"Users have the same address except for case; change users.email first. {'; '.join(same)}")


def normalize_addresses(connection: sa.Connection) -> None:
    for table, column in ADDRESSES:
        addresses = connection.scalars(sa.text(f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL"))
        changes = [{"before": text, "after": normalize(text)} for text in addresses if normalize(text) != text]
        if changes:
            connection.execute(sa.text(f"UPDATE {table} SET {column} = :after WHERE {column} = :before"), changes)


def upgrade() -> None:
    op.execute("SET LOCAL ROLE saas_system")  # row-level security hides the rows from the owner
    check_users(op.get_bind())
    op.execute("RESET ROLE")
    op.execute("DROP INDEX users_email")
    op.execute("DROP INDEX invitations_one_pending")
    op.execute("SET LOCAL ROLE saas_system")
    normalize_addresses(op.get_bind())
    op.execute(REVOKE_OLDER_INVITATIONS)
    op.execute("RESET ROLE")
    op.execute("CREATE UNIQUE INDEX users_email ON users (email)")
    op.execute("""CREATE UNIQUE INDEX invitations_one_pending ON invitations (organization_id, email)
                    WHERE accepted_at IS NULL AND revoked_at IS NULL""")
    op.execute(IDEMPOTENCY)
    op.execute("ALTER TABLE webhook_endpoints ADD COLUMN last_failure_at timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE webhook_endpoints DROP COLUMN last_failure_at")
    op.execute("SET LOCAL ROLE saas_system")
    op.execute("""DELETE FROM idempotency_keys
                   WHERE mode = 'test' OR organization_id NOT IN (SELECT id FROM organizations)""")
    op.execute("RESET ROLE")
    op.execute(IDEMPOTENCY_BEFORE)
    op.execute("DROP INDEX users_email")
    op.execute("DROP INDEX invitations_one_pending")
    op.execute("CREATE UNIQUE INDEX users_email ON users (lower(email))")
    op.execute("""CREATE UNIQUE INDEX invitations_one_pending ON invitations (organization_id, lower(email))
                    WHERE accepted_at IS NULL AND revoked_at IS NULL""")
