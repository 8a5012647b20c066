"""Separate the idempotency keys of live and test mode, and store them for users without an organization too."""

from alembic import op

revision = "0018"
down_revision = "0019"


def upgrade() -> None:
    op.execute("""
        ALTER TABLE idempotency_keys
          DROP CONSTRAINT idempotency_keys_organization_id_fkey,  -- the id of a user who has no organization
          ADD COLUMN mode text NOT NULL DEFAULT 'live' CHECK (mode IN ('live', 'test')),
          DROP CONSTRAINT idempotency_keys_pkey, ADD PRIMARY KEY (organization_id, mode, key)""")


def downgrade() -> None:
    op.execute("""
        DELETE FROM idempotency_keys
         WHERE mode = 'test' OR organization_id NOT IN (SELECT id FROM organizations)""")
    op.execute("""
        ALTER TABLE idempotency_keys
          DROP CONSTRAINT idempotency_keys_pkey, ADD PRIMARY KEY (organization_id, key), DROP COLUMN mode,
          ADD CONSTRAINT idempotency_keys_organization_id_fkey FOREIGN KEY (organization_id)
            REFERENCES organizations""")
