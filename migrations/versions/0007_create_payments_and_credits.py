"""Credit notes, alerts, payments with their inbox, and dunning."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0007"
down_revision = "0006"

TENANT_TABLES = (
    "credit_notes",
    "credit_note_lines",
    "alert_rules",
    "alert_firings",
    "payments",
    "refunds",
    "dunning_runs",
    "dunning_steps",
)
TABLES = (
    "credit_notes",
    "credit_note_lines",
    "alert_rules",
    "alert_firings",
    "invariant_results",
    "payments",
    "refunds",
    "provider_events",
    "mock_checkouts",
    "dunning_runs",
    "dunning_steps",
)
FUNCTIONS = ("payment_forward",)

SCHEMA = """
CREATE TABLE invariant_results (
  check_name text NOT NULL, at timestamptz NOT NULL, violations int NOT NULL CHECK (violations >= 0),
  sample jsonb NOT NULL DEFAULT '[]',
  PRIMARY KEY (check_name, at));

CREATE TABLE credit_notes (
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(), invoice_id uuid NOT NULL,
  series text NOT NULL, serial bigint NOT NULL, number text NOT NULL UNIQUE, currency char(3) NOT NULL,
  reason text NOT NULL
    CHECK (reason IN ('billing_error','order_change','service_issue','goodwill','duplicate','cancellation')),
  memo text NOT NULL DEFAULT '', total_minor bigint NOT NULL CHECK (total_minor > 0),
  tax_minor bigint NOT NULL DEFAULT 0 CHECK (tax_minor >= 0),
  to_due_minor bigint NOT NULL DEFAULT 0 CHECK (to_due_minor >= 0),
  to_wallet_minor bigint NOT NULL DEFAULT 0 CHECK (to_wallet_minor >= 0),
  to_refund_minor bigint NOT NULL DEFAULT 0 CHECK (to_refund_minor >= 0), issued_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, id), UNIQUE (series, serial),
  CONSTRAINT credit_notes_settled_whole CHECK (total_minor = to_due_minor + to_wallet_minor + to_refund_minor),
  CHECK (tax_minor <= total_minor),
  FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id));

CREATE TABLE credit_note_lines (
  organization_id uuid NOT NULL, credit_note_id uuid NOT NULL, invoice_line_id uuid NOT NULL,
  amount_minor bigint NOT NULL CHECK (amount_minor > 0), PRIMARY KEY (organization_id, credit_note_id, invoice_line_id),
  FOREIGN KEY (organization_id, credit_note_id) REFERENCES credit_notes (organization_id, id),
  FOREIGN KEY (organization_id, invoice_line_id) REFERENCES invoice_lines (organization_id, id));

CREATE TRIGGER frozen BEFORE UPDATE OR DELETE ON credit_notes FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE TRIGGER frozen BEFORE UPDATE OR DELETE ON credit_note_lines FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE TABLE alert_rules (
  organization_id uuid NOT NULL REFERENCES organizations, id uuid NOT NULL DEFAULT gen_random_uuid(),
  subject text NOT NULL CHECK (subject IN ('spend','spend_percent_of_cap','quantity','percent_of_included')),
  meter_code text REFERENCES meters, threshold numeric(20,6) NOT NULL CHECK (threshold > 0),
  enabled boolean NOT NULL DEFAULT true,
  PRIMARY KEY (organization_id, id),
  CHECK ((subject IN ('quantity','percent_of_included')) = (meter_code IS NOT NULL)));

CREATE TABLE alert_firings (  -- at most once a period
  organization_id uuid NOT NULL, rule_id uuid NOT NULL, billing_period_id uuid NOT NULL,
  observed numeric(24,6) NOT NULL,
  fired_at timestamptz NOT NULL, PRIMARY KEY (organization_id, rule_id, billing_period_id),
  FOREIGN KEY (organization_id, rule_id) REFERENCES alert_rules (organization_id, id) ON DELETE CASCADE,
  FOREIGN KEY (organization_id, billing_period_id) REFERENCES billing_periods (organization_id, id));

CREATE TABLE payments (
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(), invoice_id uuid NOT NULL,
  provider text NOT NULL CHECK (provider IN ('stripe','paystack','mock','offline')), provider_reference text,
  checkout_url text,
  initiated_by text NOT NULL CHECK (initiated_by IN ('customer','auto','dunning','operator')),
  currency char(3) NOT NULL, amount_minor bigint NOT NULL CHECK (amount_minor > 0),
  captured_minor bigint NOT NULL DEFAULT 0, allocated_minor bigint NOT NULL DEFAULT 0 CHECK (allocated_minor >= 0),
  excess_minor bigint NOT NULL DEFAULT 0 CHECK (excess_minor >= 0), refunded_minor bigint NOT NULL DEFAULT 0,
  state text NOT NULL DEFAULT 'created'
    CHECK (state IN ('created','pending','requires_action','succeeded','failed','canceled','quarantined')),
  failure_code text, is_retryable boolean, next_check_at timestamptz, checks smallint NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT now(), settled_at timestamptz, PRIMARY KEY (organization_id, id),
  CONSTRAINT payments_money_placed CHECK (captured_minor = allocated_minor + excess_minor),
  CONSTRAINT payments_refund_within CHECK (refunded_minor BETWEEN 0 AND captured_minor),
  CONSTRAINT payments_success_is_money CHECK ((state = 'succeeded') = (captured_minor > 0)),
  FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id));

CREATE UNIQUE INDEX payments_reference ON payments (provider, provider_reference);

CREATE UNIQUE INDEX payments_one_in_flight ON payments (organization_id, invoice_id)
  WHERE state IN ('created','pending','requires_action');

CREATE INDEX payments_janitor ON payments (next_check_at) WHERE state IN ('created','pending','requires_action');

CREATE FUNCTION payment_forward() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE moved boolean;
BEGIN
  IF TG_OP = 'INSERT' THEN
    moved := NEW.state <> 'created' OR NEW.captured_minor <> 0 OR NEW.refunded_minor <> 0;
  ELSE
    IF (NEW.invoice_id, NEW.provider, NEW.currency, NEW.amount_minor)
        IS DISTINCT FROM (OLD.invoice_id, OLD.provider, OLD.currency, OLD.amount_minor) THEN
      RAISE EXCEPTION 'a payment keeps its terms' USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.state = 'succeeded' AND NEW.state <> 'succeeded'
        OR OLD.state IN ('failed','canceled') AND NEW.state IN ('created','pending','requires_action') THEN
      RAISE EXCEPTION 'payment % -> % not allowed', OLD.state, NEW.state USING ERRCODE = 'restrict_violation';
    END IF;
    moved := (NEW.captured_minor, NEW.allocated_minor, NEW.excess_minor, NEW.refunded_minor)
      IS DISTINCT FROM (OLD.captured_minor, OLD.allocated_minor, OLD.excess_minor, OLD.refunded_minor);
  END IF;
  IF moved AND current_user <> 'saas_system' THEN
    RAISE EXCEPTION 'only a verified settlement moves money' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END $$;

CREATE TRIGGER forward BEFORE INSERT OR UPDATE ON payments FOR EACH ROW EXECUTE FUNCTION payment_forward();

CREATE TABLE refunds (
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(), payment_id uuid NOT NULL,
  credit_note_id uuid NOT NULL,
  amount_minor bigint NOT NULL CHECK (amount_minor > 0), provider_reference text,
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending','succeeded','failed')),
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, id), UNIQUE (organization_id, credit_note_id, payment_id),
  FOREIGN KEY (organization_id, payment_id) REFERENCES payments (organization_id, id),
  FOREIGN KEY (organization_id, credit_note_id) REFERENCES credit_notes (organization_id, id));

CREATE TABLE provider_events (  -- inbox; the tenant is known only after processing
  provider text NOT NULL, event_id text NOT NULL, event_type text NOT NULL, reference text,
  body bytea NOT NULL CHECK (octet_length(body) <= 262144),
  state text NOT NULL DEFAULT 'received' CHECK (state IN ('received','processed','ignored','quarantined')),
  attempts smallint NOT NULL DEFAULT 0, next_at timestamptz, error text, received_at timestamptz NOT NULL,
  processed_at timestamptz,
  PRIMARY KEY (provider, event_id), CHECK ((state = 'received') = (next_at IS NOT NULL)));

CREATE INDEX provider_events_due ON provider_events (next_at) WHERE state = 'received';

CREATE TABLE mock_checkouts (  -- stands for the outside party: own connection, own commit
  reference text PRIMARY KEY, payment_id uuid NOT NULL UNIQUE, currency char(3) NOT NULL,
  amount_minor bigint NOT NULL CHECK (amount_minor > 0), return_url text NOT NULL, description text NOT NULL,
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open','paid','failed','canceled')),
  captured_minor bigint NOT NULL DEFAULT 0, refunded_minor bigint NOT NULL DEFAULT 0, failure_code text,
  settles_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT mock_checkouts_paid_is_money CHECK ((state = 'paid') = (captured_minor > 0)));

CREATE TABLE dunning_runs (
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(), invoice_id uuid NOT NULL,
  policy jsonb NOT NULL,
  state text NOT NULL DEFAULT 'active' CHECK (state IN ('active','recovered','exhausted','stopped')),
  started_at timestamptz NOT NULL, ended_at timestamptz, PRIMARY KEY (organization_id, id),
  UNIQUE (organization_id, invoice_id),
  CHECK ((state = 'active') = (ended_at IS NULL)),
  FOREIGN KEY (organization_id, invoice_id) REFERENCES invoices (organization_id, id));

CREATE TABLE dunning_steps (
  organization_id uuid NOT NULL, run_id uuid NOT NULL, ordinal smallint NOT NULL, day smallint NOT NULL,
  run_at timestamptz NOT NULL,
  action text NOT NULL CHECK (action IN ('remind','retry','warn','restrict','suspend','write_off')),
  state text NOT NULL DEFAULT 'scheduled' CHECK (state IN ('scheduled','done','skipped','failed')), payment_id uuid,
  done_at timestamptz,
  PRIMARY KEY (organization_id, run_id, ordinal), CHECK ((state = 'scheduled') = (done_at IS NULL)),
  FOREIGN KEY (organization_id, run_id) REFERENCES dunning_runs (organization_id, id),
  FOREIGN KEY (organization_id, payment_id) REFERENCES payments (organization_id, id));

CREATE INDEX dunning_steps_due ON dunning_steps (run_at) WHERE state = 'scheduled';
"""

GRANTS = """
GRANT SELECT ON credit_notes, credit_note_lines, alert_firings, refunds, dunning_runs, dunning_steps TO saas_tenant;
GRANT SELECT, INSERT, UPDATE ON alert_rules TO saas_tenant;
GRANT SELECT, INSERT ON payments TO saas_tenant;
GRANT UPDATE (state, provider_reference, checkout_url, next_check_at) ON payments TO saas_tenant;
GRANT DELETE ON alert_rules TO saas_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON credit_notes, credit_note_lines, alert_rules, alert_firings, invariant_results,
payments, refunds, provider_events, mock_checkouts, dunning_runs, dunning_steps TO saas_system;
"""
# Existing organizations get the alerts that new ones begin with.
ALERTS = """
SET LOCAL ROLE saas_system;
INSERT INTO alert_rules (organization_id, subject, meter_code, threshold)
SELECT organization_id, subject, meter_code, threshold FROM billing_profiles
CROSS JOIN (VALUES ('spend_percent_of_cap', NULL, 50), ('spend_percent_of_cap', NULL, 80),
  ('spend_percent_of_cap', NULL, 100), ('percent_of_included', 'sms', 80), ('percent_of_included', 'sms', 100),
  ('percent_of_included', 'email', 80), ('percent_of_included', 'email', 100)) AS v(subject, meter_code, threshold);
RESET ROLE
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    run(SCHEMA)
    for table in TENANT_TABLES:
        run(isolate(table))
    run(GRANTS)
    run(ALERTS)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.execute(f"DROP TABLE {table}")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}()")
