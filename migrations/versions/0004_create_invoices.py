"""Invoices, their lines, and the wallet."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0004"
down_revision = "0003"

TENANT_TABLES = ("invoices", "invoice_lines", "credit_grants", "credit_entries")
TABLES = ("number_series", "invoices", "invoice_lines", "credit_grants", "credit_entries")
FUNCTIONS = (
    "invoice_frozen",
    "invoice_born_draft",
    "line_frozen",
)

SCHEMA = """
CREATE TABLE number_series (series text PRIMARY KEY, last_value bigint NOT NULL CHECK (last_value >= 1));

CREATE TABLE invoices (
  organization_id uuid NOT NULL REFERENCES organizations, id uuid NOT NULL DEFAULT gen_random_uuid(),
  billing_period_id uuid,
  kind text NOT NULL CHECK (kind IN ('cycle','manual')),
  state text NOT NULL DEFAULT 'draft' CHECK (state IN ('draft','open','paid','void','uncollectible')),
  series text, serial bigint, number text UNIQUE, currency char(3) NOT NULL,
  bill_to jsonb NOT NULL DEFAULT '{}', seller jsonb NOT NULL DEFAULT '{}',  -- snapshots, taken at finalization
  subtotal_minor bigint NOT NULL DEFAULT 0, discount_minor bigint NOT NULL DEFAULT 0 CHECK (discount_minor >= 0),
  tax_minor bigint NOT NULL DEFAULT 0 CHECK (tax_minor >= 0),
  total_minor bigint NOT NULL DEFAULT 0 CHECK (total_minor >= 0),
  credits_applied_minor bigint NOT NULL DEFAULT 0 CHECK (credits_applied_minor >= 0),  -- wallet
  reduced_minor bigint NOT NULL DEFAULT 0 CHECK (reduced_minor >= 0),  -- credit notes that lower what is due
  paid_minor bigint NOT NULL DEFAULT 0 CHECK (paid_minor >= 0),
  credited_minor bigint NOT NULL DEFAULT 0,  -- all credit notes, however settled
  due_minor bigint GENERATED ALWAYS AS (total_minor - credits_applied_minor - reduced_minor - paid_minor) STORED,
  finalized_at timestamptz, due_at timestamptz, paid_at timestamptz, voided_at timestamptz, replaces_id uuid,
  rule_version smallint NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (organization_id, id),
  UNIQUE (series, serial),
  FOREIGN KEY (organization_id, billing_period_id) REFERENCES billing_periods (organization_id, id),
  FOREIGN KEY (organization_id, replaces_id) REFERENCES invoices (organization_id, id),
  CONSTRAINT invoices_cycle_has_period CHECK ((kind = 'cycle') = (billing_period_id IS NOT NULL)),
  CONSTRAINT invoices_total_adds_up CHECK (total_minor = subtotal_minor - discount_minor + tax_minor),
  CONSTRAINT invoices_never_overpaid CHECK (total_minor - credits_applied_minor - reduced_minor - paid_minor >= 0),
  CONSTRAINT invoices_credit_within_total CHECK (reduced_minor <= credited_minor AND credited_minor <= total_minor),
  CONSTRAINT invoices_numbered_when_final
    CHECK (num_nulls(series, serial, number, finalized_at, due_at) = CASE state WHEN 'draft' THEN 5 ELSE 0 END),
  CONSTRAINT invoices_paid_means_settled
    CHECK (state IN ('draft','void') OR (state = 'paid') = (total_minor = credits_applied_minor + reduced_minor +
    paid_minor)),
  CONSTRAINT invoices_void_holds_no_money CHECK (state <> 'void' OR paid_minor = 0),
  CONSTRAINT invoices_paid_at CHECK ((state = 'paid') = (paid_at IS NOT NULL)),
  CONSTRAINT invoices_voided_at CHECK ((state = 'void') = (voided_at IS NOT NULL)));

CREATE UNIQUE INDEX invoices_one_cycle ON invoices (organization_id, billing_period_id)
  WHERE kind = 'cycle' AND state <> 'void';

CREATE INDEX invoices_due ON invoices (due_at) WHERE state = 'open';

CREATE INDEX invoices_list ON invoices (organization_id, created_at DESC, id DESC);

CREATE TABLE invoice_lines (
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(), invoice_id uuid NOT NULL,
  position smallint NOT NULL,
  source_key text NOT NULL,  -- base:starter@1, usage:starter@1:sms, late:<period>:...
  kind text NOT NULL CHECK (kind IN ('base','usage','late_usage','minimum','carry','manual')),
  description text NOT NULL,
  plan_version_id text REFERENCES plan_versions, meter_code text REFERENCES meters, late_for_period_id uuid,
  service_starts_at timestamptz, service_ends_at timestamptz, quantity numeric(24,6) NOT NULL DEFAULT 1,
  amount_minor bigint NOT NULL, discount_minor bigint NOT NULL DEFAULT 0, tax_minor bigint NOT NULL DEFAULT 0,
  calculation jsonb NOT NULL DEFAULT '{}', PRIMARY KEY (organization_id, id),
  UNIQUE (organization_id, invoice_id, source_key), CHECK (service_starts_at <= service_ends_at),
  FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id));

CREATE FUNCTION invoice_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE TRIGGER frozen BEFORE UPDATE OR DELETE ON invoices FOR EACH ROW EXECUTE FUNCTION invoice_frozen();

CREATE FUNCTION invoice_born_draft() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.state <> 'draft' THEN RAISE EXCEPTION 'an invoice starts as a draft' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;

CREATE TRIGGER born_draft BEFORE INSERT ON invoices FOR EACH ROW EXECUTE FUNCTION invoice_born_draft();

CREATE FUNCTION line_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE st text; r record;
BEGIN
  FOR r IN SELECT DISTINCT o, i FROM (VALUES (NEW.organization_id, NEW.invoice_id), (OLD.organization_id,
  OLD.invoice_id)) v (o, i)
            WHERE i IS NOT NULL LOOP
  -- FOR SHARE waits for a finalization in flight; the foreign key's own KEY SHARE would not
    SELECT state INTO st FROM invoices WHERE organization_id = r.o AND id = r.i FOR SHARE;
    IF st IS NOT NULL AND st <> 'draft' THEN
      RAISE EXCEPTION 'the invoice is %: its lines are frozen', st USING ERRCODE = 'restrict_violation';
    END IF;
  END LOOP;
  RETURN coalesce(NEW, OLD);
END $$;

CREATE TRIGGER frozen BEFORE INSERT OR UPDATE OR DELETE ON invoice_lines FOR EACH ROW EXECUTE FUNCTION line_frozen();

CREATE TABLE credit_grants (
  organization_id uuid NOT NULL REFERENCES organizations, id uuid NOT NULL DEFAULT gen_random_uuid(),
  source_key text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('promotional','purchased','credit_note','overpayment','carry')),
  currency char(3) NOT NULL,
  amount_minor bigint NOT NULL CHECK (amount_minor > 0), remaining_minor bigint NOT NULL,
  priority smallint NOT NULL DEFAULT 10,
  effective_at timestamptz NOT NULL, expires_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, id), UNIQUE (organization_id, source_key),
  CONSTRAINT credit_grants_never_overdrawn CHECK (remaining_minor BETWEEN 0 AND amount_minor),
  CHECK (expires_at > effective_at));

CREATE TABLE credit_entries (
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(), grant_id uuid NOT NULL, invoice_id uuid,
  delta_minor bigint NOT NULL CHECK (delta_minor <> 0),
  reason text NOT NULL CHECK (reason IN ('apply','unapply','expire','void')),
  at timestamptz NOT NULL, PRIMARY KEY (organization_id, id),
  CHECK ((reason IN ('apply','unapply')) = (invoice_id IS NOT NULL)), CHECK ((reason = 'unapply') = (delta_minor > 0)),
  FOREIGN KEY (organization_id, grant_id) REFERENCES credit_grants (organization_id, id),
  FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id));

CREATE UNIQUE INDEX credit_entries_once ON credit_entries (organization_id, grant_id, invoice_id, reason)
  WHERE invoice_id IS NOT NULL;

CREATE TRIGGER frozen BEFORE UPDATE OR DELETE ON credit_entries FOR EACH ROW EXECUTE FUNCTION append_only();
"""

GRANTS = """
GRANT SELECT ON invoices, invoice_lines, credit_grants, credit_entries TO saas_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON number_series, invoices, invoice_lines, credit_grants,
  credit_entries TO saas_system;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    run(SCHEMA)
    for table in TENANT_TABLES:
        run(isolate(table))
    run(GRANTS)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}()")
