"""A plan change may choose the currency of an organization, until an invoice above zero fixes it."""

from alembic import op

revision = "0013"
down_revision = "0012"

UPGRADE = """
ALTER TABLE messages ADD COLUMN currency char(3) NOT NULL DEFAULT 'USD' CHECK (currency ~ '^[A-Z]{3}$');

GRANT UPDATE (currency) ON billing_profiles TO saas_tenant;

CREATE FUNCTION currency_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM invoices WHERE organization_id = NEW.organization_id AND total_minor > 0) THEN
    RAISE EXCEPTION 'invoices fix the currency of an organization' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;

CREATE TRIGGER currency_fixed BEFORE UPDATE ON billing_profiles FOR EACH ROW
  WHEN (NEW.currency IS DISTINCT FROM OLD.currency) EXECUTE FUNCTION currency_fixed();
"""
DOWN = """
ALTER TABLE messages DROP COLUMN currency;

DROP TRIGGER currency_fixed ON billing_profiles;

DROP FUNCTION currency_fixed();

REVOKE UPDATE (currency) ON billing_profiles FROM saas_tenant;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(UPGRADE, execution_options={"no_parameters": True})


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
