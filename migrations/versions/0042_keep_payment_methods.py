"""Saved payment methods of organizations, and at most one automatic payment of an invoice."""

from alembic import op

from migrations.rls import isolate

revision = "0042"
down_revision = "0041"

# No data of a card but those that people know it by; `reference` is the provider's name for it.
METHODS = """
CREATE TABLE payment_methods (
  organization_id uuid NOT NULL REFERENCES organizations, id uuid NOT NULL,
  provider text NOT NULL CHECK (provider IN ('stripe','paystack','mock')),
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending','active','canceled','removed')),
  setup_reference text, setup_url text, reference text, customer_reference text,
  brand text, last_four text CHECK (last_four ~ '^[0-9]{4}$'),
  expiry_month smallint CHECK (expiry_month BETWEEN 1 AND 12), expiry_year smallint,
  is_default boolean NOT NULL DEFAULT false, charges_from timestamptz,
  next_check_at timestamptz, checks smallint NOT NULL DEFAULT 0, created_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, id),
  CONSTRAINT payment_methods_setup UNIQUE (provider, setup_reference),
  CONSTRAINT payment_methods_one_default EXCLUDE (organization_id WITH =) WHERE (is_default),
  CONSTRAINT payment_methods_active_is_known CHECK (state <> 'active' OR reference IS NOT NULL),
  CONSTRAINT payment_methods_default_is_active CHECK (NOT is_default OR state = 'active' AND charges_from IS NOT NULL));

GRANT SELECT, INSERT, UPDATE ON payment_methods TO saas_tenant;

GRANT SELECT, INSERT, UPDATE, DELETE ON payment_methods TO saas_system;

-- Stands for the outside party, as mock_checkouts does.
CREATE TABLE mock_setups (
  reference text PRIMARY KEY, return_url text NOT NULL, description text NOT NULL,
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open','saved','canceled')),
  is_declining boolean NOT NULL DEFAULT false);

GRANT SELECT, INSERT, UPDATE, DELETE ON mock_setups TO saas_system;

ALTER TABLE payments ADD COLUMN payment_method_id uuid;

ALTER TABLE payments ADD CONSTRAINT payments_method
  FOREIGN KEY (organization_id, payment_method_id) REFERENCES payment_methods (organization_id, id) NOT VALID;
"""
VALIDATE = "ALTER TABLE payments VALIDATE CONSTRAINT payments_method"


def upgrade() -> None:
    op.execute(METHODS)
    op.execute(isolate("payment_methods"))
    with op.get_context().autocommit_block():
        op.execute(VALIDATE)
        op.execute("""CREATE INDEX CONCURRENTLY payment_methods_due ON payment_methods (next_check_at)
          WHERE next_check_at IS NOT NULL""")
        op.execute("""CREATE UNIQUE INDEX CONCURRENTLY payments_one_automatic ON payments (organization_id, invoice_id)
          WHERE initiated_by = 'auto'""")


def downgrade() -> None:
    op.execute("DROP INDEX payments_one_automatic")
    op.execute("ALTER TABLE payments DROP COLUMN payment_method_id")
    op.execute("DROP TABLE mock_setups, payment_methods")
