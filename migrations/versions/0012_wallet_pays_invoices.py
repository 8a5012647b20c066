"""Let the wallet pay open invoices and be paid out, one reference pay several invoices, and refunds be retried."""

from functools import partial

from alembic import op

revision = "0012"
down_revision = "0011"

INVOICE_FROZEN = """
CREATE OR REPLACE FUNCTION invoice_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  -- due_minor is generated: in a BEFORE trigger NEW still carries NULL there, so it must be left out of the comparison
  movable text[] := ARRAY['state','credits_applied_minor','reduced_minor','paid_minor','credited_minor','due_minor',
  'paid_at','voided_at'];
BEGIN
  IF TG_OP = 'DELETE' THEN
    IF OLD.state <> 'draft' THEN
      RAISE EXCEPTION 'invoice % is %: void it or write a credit note', OLD.number,
      OLD.state USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN OLD;
  END IF;
  IF (OLD.state, NEW.state) NOT IN (('draft','draft'),('draft','open'),('draft','paid'),('open','open'),
      ('open','paid'),('open','void'),
      ('open','uncollectible'),('uncollectible','uncollectible'),('uncollectible','paid'),('uncollectible','void'),
      ('paid','paid')) THEN
    RAISE EXCEPTION 'invoice % -> % not allowed', OLD.state, NEW.state USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.state <> 'draft' AND to_jsonb(NEW) - movable IS DISTINCT FROM to_jsonb(OLD) - movable THEN
    RAISE EXCEPTION 'invoice % is %: its content is frozen', OLD.number, OLD.state USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.state <> 'draft' AND (NEW.paid_minor < OLD.paid_minor OR NEW.credited_minor < OLD.credited_minor
      OR NEW.reduced_minor < OLD.reduced_minor OR (NEW.credits_applied_minor < OLD.credits_applied_minor
      AND NEW.state <> 'void')) THEN
    RAISE EXCEPTION 'money on invoice % only grows', OLD.number USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.state = 'draft' AND NEW.state <> 'draft'
  AND NEW.subtotal_minor IS DISTINCT FROM (SELECT coalesce(sum(amount_minor), 0)
      FROM invoice_lines WHERE organization_id = NEW.organization_id AND invoice_id = NEW.id) THEN
    RAISE EXCEPTION 'subtotal is not the sum of the lines' USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END $$;
"""
# A dispute takes the money of a payment back: the invoice is due again, by no more than its payments have lost.
INVOICE_REVERSIBLE = """
CREATE OR REPLACE FUNCTION invoice_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  -- due_minor is generated: in a BEFORE trigger NEW still carries NULL there, so it must be left out of the comparison
  movable text[] := ARRAY['state','credits_applied_minor','reduced_minor','paid_minor','credited_minor','due_minor',
  'paid_at','voided_at'];
BEGIN
  IF TG_OP = 'DELETE' THEN
    IF OLD.state <> 'draft' THEN
      RAISE EXCEPTION 'invoice % is %: void it or write a credit note', OLD.number,
      OLD.state USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN OLD;
  END IF;
  IF (OLD.state, NEW.state) NOT IN (('draft','draft'),('draft','open'),('draft','paid'),('open','open'),
      ('open','paid'),('open','void'),
      ('open','uncollectible'),('uncollectible','uncollectible'),('uncollectible','paid'),('uncollectible','void'),
      ('paid','paid'),('paid','open')) THEN
    RAISE EXCEPTION 'invoice % -> % not allowed', OLD.state, NEW.state USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.state <> 'draft' AND to_jsonb(NEW) - movable IS DISTINCT FROM to_jsonb(OLD) - movable THEN
    RAISE EXCEPTION 'invoice % is %: its content is frozen', OLD.number, OLD.state USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.paid_minor < OLD.paid_minor AND NEW.paid_minor IS DISTINCT FROM (SELECT coalesce(sum(allocated_minor), 0)
      FROM payments WHERE organization_id = NEW.organization_id AND invoice_id = NEW.id)
      OR OLD.state = 'paid' AND NEW.state = 'open' AND NEW.paid_minor >= OLD.paid_minor THEN
    RAISE EXCEPTION 'invoice % is paid by its payments', OLD.number USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.state <> 'draft' AND (NEW.credited_minor < OLD.credited_minor
      OR NEW.reduced_minor < OLD.reduced_minor OR (NEW.credits_applied_minor < OLD.credits_applied_minor
      AND NEW.state <> 'void')) THEN
    RAISE EXCEPTION 'money on invoice % only grows', OLD.number USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.state = 'draft' AND NEW.state <> 'draft'
  AND NEW.subtotal_minor IS DISTINCT FROM (SELECT coalesce(sum(amount_minor), 0)
      FROM invoice_lines WHERE organization_id = NEW.organization_id AND invoice_id = NEW.id) THEN
    RAISE EXCEPTION 'subtotal is not the sum of the lines' USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END $$;
"""
UPGRADE = """
-- Credit that came back to a grant may pay the same invoice again.
DROP INDEX credit_entries_once;
CREATE INDEX credit_entries_invoice ON credit_entries (organization_id, invoice_id) WHERE invoice_id IS NOT NULL;
ALTER TABLE credit_entries ADD COLUMN reference text;
ALTER TABLE credit_entries DROP CONSTRAINT credit_entries_reason_check;
ALTER TABLE credit_entries ADD CONSTRAINT credit_entries_reason_check
  CHECK (reason IN ('apply','unapply','expire','void','payout'));
ALTER TABLE credit_entries ADD CONSTRAINT credit_entries_payout_reference
  CHECK ((reason = 'payout') = (reference IS NOT NULL));
CREATE UNIQUE INDEX credit_entries_payout ON credit_entries (organization_id, grant_id, reference)
  WHERE reason = 'payout';

-- A transfer has one reference at the bank and may pay several invoices.
DROP INDEX payments_reference;
CREATE UNIQUE INDEX payments_reference ON payments (provider, provider_reference) WHERE provider <> 'offline';
CREATE UNIQUE INDEX payments_offline_reference ON payments (organization_id, invoice_id, provider_reference)
  WHERE provider = 'offline';
-- A canceled payment with a next check has a page at its provider that must be expired.
CREATE INDEX payments_expiring ON payments (next_check_at) WHERE state = 'canceled' AND next_check_at IS NOT NULL;

-- A refund without a credit note pays wallet money out. A canceled one became wallet credit instead.
ALTER TABLE refunds ALTER COLUMN credit_note_id DROP NOT NULL;
ALTER TABLE refunds ADD COLUMN attempt smallint NOT NULL DEFAULT 1 CHECK (attempt >= 1);
ALTER TABLE refunds DROP CONSTRAINT refunds_state_check;
ALTER TABLE refunds ADD CONSTRAINT refunds_state_check CHECK (state IN ('pending','succeeded','failed','canceled'));

ALTER TABLE payments ADD COLUMN disputed_minor bigint NOT NULL DEFAULT 0 CHECK (disputed_minor >= 0);
ALTER TABLE payments DROP CONSTRAINT payments_money_placed;
ALTER TABLE payments ADD CONSTRAINT payments_money_placed
  CHECK (captured_minor = allocated_minor + excess_minor + disputed_minor);
ALTER TABLE mock_checkouts ADD COLUMN returned_minor bigint NOT NULL DEFAULT 0,
  ADD COLUMN disputed_minor bigint NOT NULL DEFAULT 0;
"""
DOWNGRADE = """
ALTER TABLE mock_checkouts DROP COLUMN returned_minor, DROP COLUMN disputed_minor;
ALTER TABLE payments DROP CONSTRAINT payments_money_placed;
ALTER TABLE payments DROP COLUMN disputed_minor;
ALTER TABLE payments ADD CONSTRAINT payments_money_placed CHECK (captured_minor = allocated_minor + excess_minor);
ALTER TABLE refunds DROP CONSTRAINT refunds_state_check;
ALTER TABLE refunds ADD CONSTRAINT refunds_state_check CHECK (state IN ('pending','succeeded','failed'));
ALTER TABLE refunds DROP COLUMN attempt;
ALTER TABLE refunds ALTER COLUMN credit_note_id SET NOT NULL;
DROP INDEX payments_expiring;
DROP INDEX payments_offline_reference;
DROP INDEX payments_reference;
CREATE UNIQUE INDEX payments_reference ON payments (provider, provider_reference);
DROP INDEX credit_entries_payout;
ALTER TABLE credit_entries DROP CONSTRAINT credit_entries_payout_reference;
ALTER TABLE credit_entries DROP CONSTRAINT credit_entries_reason_check;
ALTER TABLE credit_entries ADD CONSTRAINT credit_entries_reason_check
  CHECK (reason IN ('apply','unapply','expire','void'));
ALTER TABLE credit_entries DROP COLUMN reference;
DROP INDEX credit_entries_invoice;
CREATE UNIQUE INDEX credit_entries_once ON credit_entries (organization_id, grant_id, invoice_id, reason)
  WHERE invoice_id IS NOT NULL;
"""


def upgrade() -> None:
    partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})(UPGRADE + INVOICE_REVERSIBLE)


def downgrade() -> None:
    partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})(DOWNGRADE + INVOICE_FROZEN)
