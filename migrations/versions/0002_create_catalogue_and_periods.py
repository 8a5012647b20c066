"""The plan catalogue, and which plan and period an organization is in."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0002"
down_revision = "0001"

TENANT_TABLES = ("billing_profiles", "subscriptions", "subscription_segments", "billing_periods")
TABLES = (
    "meters",
    "plans",
    "plan_versions",
    "prices",
    "price_tiers",
    "entitlements",
    "billing_profiles",
    "subscriptions",
    "subscription_segments",
    "billing_periods",
)
FUNCTIONS = (
    "catalogue_frozen",
    "period_forward",
    "segment_guard",
)

SCHEMA = """
CREATE TABLE meters (
  code text PRIMARY KEY CHECK (code ~ '^[a-z][a-z0-9_.]{0,62}$'), name text NOT NULL, unit text NOT NULL,
  aggregation text NOT NULL DEFAULT 'sum' CHECK (aggregation IN ('sum')),  -- later: max, unique, latest
  reverse_on_failure boolean NOT NULL DEFAULT true, archived_at timestamptz);

CREATE TABLE plans (
  code text PRIMARY KEY, name text NOT NULL, position smallint NOT NULL, is_public boolean NOT NULL DEFAULT true,
  archived_at timestamptz);

CREATE TABLE plan_versions (
  id text PRIMARY KEY, plan_code text NOT NULL REFERENCES plans, version int NOT NULL CHECK (version > 0),
  state text NOT NULL DEFAULT 'draft' CHECK (state IN ('draft','published','retired')),
  currency char(3) NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  base_amount_minor bigint NOT NULL DEFAULT 0 CHECK (base_amount_minor >= 0),
  min_spend_minor bigint NOT NULL DEFAULT 0 CHECK (min_spend_minor >= 0),
  published_at timestamptz, UNIQUE (plan_code, version), CHECK (id = plan_code || '@' || version),
  CHECK ((state = 'draft') = (published_at IS NULL)));

CREATE TABLE prices (
  plan_version_id text NOT NULL REFERENCES plan_versions, meter_code text NOT NULL REFERENCES meters,
  model text NOT NULL CHECK (model IN ('per_unit','graduated','volume','package')),
  included_quantity numeric(20,6) NOT NULL DEFAULT 0 CHECK (included_quantity >= 0),
  unit_price numeric(20,10) CHECK (unit_price >= 0), package_size numeric(20,6) CHECK (package_size > 0),
  package_amount_minor bigint CHECK (package_amount_minor >= 0), max_amount_minor bigint CHECK (max_amount_minor >= 0),
  PRIMARY KEY (plan_version_id, meter_code),
  CHECK ((model = 'per_unit') = (unit_price IS NOT NULL)),
  CHECK ((model = 'package') = (package_size IS NOT NULL AND package_amount_minor IS NOT NULL)));

CREATE TABLE price_tiers (
  plan_version_id text NOT NULL, meter_code text NOT NULL, ordinal smallint NOT NULL CHECK (ordinal >= 1),
  up_to numeric(20,6) CHECK (up_to > 0),  -- inclusive; NULL on the last tier only
  unit_price numeric(20,10) NOT NULL CHECK (unit_price >= 0),
  flat_minor bigint NOT NULL DEFAULT 0 CHECK (flat_minor >= 0),
  PRIMARY KEY (plan_version_id, meter_code, ordinal),
  FOREIGN KEY (plan_version_id, meter_code) REFERENCES prices);

CREATE TABLE entitlements (  -- value {"setting": "NAME"} is resolved at run time
  plan_version_id text NOT NULL REFERENCES plan_versions, feature text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('boolean','config','metered')), value jsonb NOT NULL,
  meter_code text REFERENCES meters, limit_quantity numeric(20,6), PRIMARY KEY (plan_version_id, feature),
  CHECK ((kind = 'metered') = (meter_code IS NOT NULL AND limit_quantity IS NOT NULL)));

CREATE FUNCTION catalogue_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE st text; bad text;
BEGIN
  IF TG_TABLE_NAME = 'plan_versions' THEN
    IF OLD.state <> 'draft' AND (TG_OP = 'DELETE' OR NEW.state = 'draft'
        OR to_jsonb(NEW) - 'state' IS DISTINCT FROM to_jsonb(OLD) - 'state') THEN
      RAISE EXCEPTION 'plan version % is %: publish a new version', OLD.id,
      OLD.state USING ERRCODE = 'restrict_violation';
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.state = 'draft' AND NEW.state = 'published' THEN
  -- graduated and volume prices: ordinals 1..n, bounds strictly rising, exactly the last one open
      SELECT p.meter_code INTO bad FROM prices p
       WHERE p.plan_version_id = NEW.id AND p.model IN ('graduated','volume') AND NOT coalesce((
         SELECT count(*) = max(t.ordinal) AND count(*) FILTER (WHERE t.up_to IS NULL) = 1
            AND bool_and((t.up_to IS NULL) = t.is_last)
            AND bool_and(t.previous IS NULL OR t.up_to IS NULL OR t.up_to > t.previous)
           FROM (SELECT ordinal, up_to, lag(up_to) OVER w AS previous, lead(ordinal) OVER w IS NULL AS is_last
                   FROM price_tiers WHERE plan_version_id = p.plan_version_id AND meter_code = p.meter_code
                 WINDOW w AS (ORDER BY ordinal)) t), false) LIMIT 1;
      IF bad IS NOT NULL THEN RAISE EXCEPTION 'tiers of %/% are malformed', NEW.id,
      bad USING ERRCODE = 'check_violation'; END IF;
    END IF;
    RETURN coalesce(NEW, OLD);
  END IF;
  SELECT state INTO st FROM plan_versions WHERE id = coalesce(NEW.plan_version_id, OLD.plan_version_id) FOR SHARE;
  IF st <> 'draft' THEN
    RAISE EXCEPTION 'plan version is %: publish a new version', st USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN coalesce(NEW, OLD);
END $$;

CREATE TRIGGER frozen BEFORE UPDATE OR DELETE ON plan_versions FOR EACH ROW EXECUTE FUNCTION catalogue_frozen();

CREATE TRIGGER frozen BEFORE INSERT OR UPDATE OR DELETE ON prices FOR EACH ROW EXECUTE FUNCTION catalogue_frozen();

CREATE TRIGGER frozen BEFORE INSERT OR UPDATE OR DELETE ON price_tiers FOR EACH ROW EXECUTE FUNCTION catalogue_frozen();

CREATE TRIGGER frozen BEFORE INSERT OR UPDATE OR DELETE
  ON entitlements FOR EACH ROW EXECUTE FUNCTION catalogue_frozen();

CREATE TABLE billing_profiles (
  organization_id uuid PRIMARY KEY REFERENCES organizations, currency char(3) NOT NULL DEFAULT 'USD',
  bill_to jsonb NOT NULL DEFAULT '{}',
  tax_id text, net_terms_days smallint NOT NULL DEFAULT 7 CHECK (net_terms_days BETWEEN 0 AND 90),
  collection text NOT NULL DEFAULT 'send_invoice' CHECK (collection IN ('send_invoice','charge_automatically')),
  spend_cap_minor bigint CHECK (spend_cap_minor >= 0), spend_cap_is_default boolean NOT NULL DEFAULT true,
  spend_cap_action text NOT NULL DEFAULT 'block' CHECK (spend_cap_action IN ('alert','block')),
  review_drafts boolean NOT NULL DEFAULT false, parked_at timestamptz, parked_reason text,
  CHECK ((parked_at IS NULL) = (parked_reason IS NULL)));

CREATE TABLE subscriptions (  -- one for an organization's whole life; plans change by segment
  organization_id uuid NOT NULL REFERENCES organizations, id uuid NOT NULL DEFAULT gen_random_uuid(),
  state text NOT NULL DEFAULT 'active' CHECK (state IN ('active','ended')),
  standing text NOT NULL DEFAULT 'good' CHECK (standing IN ('good','restricted','suspended')),  -- moved by dunning only
  started_at timestamptz NOT NULL, anchor_day smallint NOT NULL DEFAULT 1 CHECK (anchor_day BETWEEN 1 AND 31),
  ended_at timestamptz, PRIMARY KEY (organization_id, id), UNIQUE (organization_id),
  CHECK ((state = 'ended') = (ended_at IS NOT NULL)));

-- A chain instead of an exclusion constraint: seq 1 is unique, and row k must start where row k-1 ends. No
-- gap, no overlap,
-- safe under concurrency, no extension. STORED must be written: PostgreSQL 18 makes generated columns
-- virtual by default,
-- and a virtual column cannot carry a foreign key.
CREATE TABLE subscription_segments (  -- which plan applies when; a scheduled change = a future row
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(), subscription_id uuid NOT NULL,
  seq int NOT NULL CHECK (seq >= 1), previous_seq int GENERATED ALWAYS AS (nullif(seq - 1, 0)) STORED,
  plan_version_id text NOT NULL REFERENCES plan_versions, starts_at timestamptz NOT NULL, ends_at timestamptz,
  PRIMARY KEY (organization_id, id), CHECK (starts_at < ends_at),
  UNIQUE (organization_id, seq), UNIQUE (organization_id, seq, ends_at),
  FOREIGN KEY (organization_id, subscription_id) REFERENCES subscriptions (organization_id, id),
  CONSTRAINT subscription_segments_chain
    FOREIGN KEY (organization_id, previous_seq, starts_at)
    REFERENCES subscription_segments (organization_id, seq, ends_at));

CREATE UNIQUE INDEX subscription_segments_open ON subscription_segments (organization_id) WHERE ends_at IS NULL;

CREATE TABLE billing_periods (
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(), subscription_id uuid NOT NULL,
  seq int NOT NULL CHECK (seq >= 1), previous_seq int GENERATED ALWAYS AS (nullif(seq - 1, 0)) STORED,
  starts_at timestamptz NOT NULL, ends_at timestamptz NOT NULL CHECK (starts_at < ends_at),
  -- a whole month; > length in a stub
  nominal_seconds int NOT NULL CHECK (nominal_seconds BETWEEN 2300000 AND 4600000),
  is_cut boolean NOT NULL DEFAULT false,  -- ended early by `flask billing close --now`
  timezone text NOT NULL, state text NOT NULL DEFAULT 'open' CHECK (state IN ('open','closed','invoiced')),
  closed_at timestamptz,
  PRIMARY KEY (organization_id, id), UNIQUE (organization_id, seq), UNIQUE (organization_id, seq, ends_at),
  CHECK ((state = 'open') = (closed_at IS NULL)),
  FOREIGN KEY (organization_id, subscription_id) REFERENCES subscriptions (organization_id, id),
  CONSTRAINT billing_periods_chain
    FOREIGN KEY (organization_id, previous_seq, starts_at) REFERENCES billing_periods (organization_id, seq, ends_at));

CREATE INDEX billing_periods_due ON billing_periods (ends_at) WHERE state <> 'invoiced';

CREATE FUNCTION period_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (OLD.state, NEW.state) NOT IN
      (('open','open'),('open','closed'),('closed','closed'),('closed','invoiced'),('invoiced','invoiced')) THEN
    RAISE EXCEPTION 'period % -> % not allowed', OLD.state, NEW.state USING ERRCODE = 'restrict_violation';
  END IF;
  IF OLD.state <> 'open' AND (NEW.starts_at, NEW.ends_at, NEW.seq, NEW.nominal_seconds, NEW.closed_at, NEW.is_cut)
      IS DISTINCT FROM (OLD.starts_at, OLD.ends_at, OLD.seq, OLD.nominal_seconds, OLD.closed_at, OLD.is_cut) THEN
    RAISE EXCEPTION 'a % period keeps its bounds', OLD.state USING ERRCODE = 'restrict_violation';
  END IF;
  -- The chain keys make a cut one UPDATE over two rows: this end and, where it exists, the successor's start.
  IF NEW.is_cut < OLD.is_cut OR NEW.ends_at < OLD.ends_at AND NOT NEW.is_cut AND EXISTS (SELECT FROM usage_events
      WHERE organization_id = OLD.organization_id AND billing_period_id = OLD.id) THEN
    RAISE EXCEPTION 'a period that owns usage is shortened by a cut only' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;

CREATE TRIGGER forward BEFORE UPDATE ON billing_periods FOR EACH ROW EXECUTE FUNCTION period_forward();

CREATE TRIGGER kept BEFORE DELETE ON billing_periods FOR EACH ROW EXECUTE FUNCTION append_only();

-- What has been billed keeps its plan: no segment may begin, end, move or vanish before the end of the last
-- closed period.
CREATE FUNCTION segment_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE closed_to timestamptz; touched timestamptz;
BEGIN
  SELECT max(ends_at) INTO closed_to FROM billing_periods
   WHERE organization_id = coalesce(NEW.organization_id, OLD.organization_id) AND state <> 'open';
  IF TG_OP = 'UPDATE' THEN
    IF to_jsonb(NEW) - '{ends_at,previous_seq}'::text[]
    IS DISTINCT FROM to_jsonb(OLD) - '{ends_at,previous_seq}'::text[] THEN
      RAISE EXCEPTION 'only the end of a segment may move' USING ERRCODE = 'restrict_violation';
    END IF;
    touched := least(NEW.ends_at, OLD.ends_at);
  ELSE
    touched := coalesce(NEW.starts_at, OLD.starts_at);
  END IF;
  IF touched < closed_to THEN
    RAISE EXCEPTION 'the plan of a closed period is frozen' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN coalesce(NEW, OLD);
END $$;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE
  ON subscription_segments FOR EACH ROW EXECUTE FUNCTION segment_guard();

INSERT INTO meters (code, name, unit) VALUES ('sms', 'SMS', 'segment'), ('email', 'Email', 'message');

INSERT INTO plans (code, name, position) VALUES ('free','Free',1), ('starter','Starter',2), ('pro','Pro',3),
  ('scale','Scale',4);

INSERT INTO plan_versions (id, plan_code, version, currency, base_amount_minor) VALUES
  ('free@1','free',1,'USD',0), ('starter@1','starter',1,'USD',2900), ('pro@1','pro',1,'USD',9900),
  ('scale@1','scale',1,'USD',49900);

INSERT INTO prices (plan_version_id, meter_code, model, included_quantity, unit_price) VALUES
  ('free@1','sms','per_unit',1000,0.01), ('free@1','email','per_unit',1000,0.001),
  ('starter@1','sms','per_unit',5000,0.01), ('starter@1','email','per_unit',50000,0.001),
  ('pro@1','sms','per_unit',0,0.005),    ('pro@1','email','per_unit',0,0.0005),
  ('scale@1','sms','graduated',0,NULL),  ('scale@1','email','graduated',0,NULL);

INSERT INTO price_tiers (plan_version_id, meter_code, ordinal, up_to, unit_price) VALUES
  ('scale@1','sms',1,100000,0.004),    ('scale@1','sms',2,1000000,0.003),    ('scale@1','sms',3,NULL,0.002),
  ('scale@1','email',1,1000000,0.0004),('scale@1','email',2,10000000,0.0003),('scale@1','email',3,NULL,0.0002);

INSERT INTO entitlements (plan_version_id, feature, kind, value) VALUES
  ('free@1','rate_limit_per_minute','config','{"setting": "RATE_LIMIT_PER_MINUTE"}'),
  ('starter@1','rate_limit_per_minute','config','600'),
  ('pro@1','rate_limit_per_minute','config','6000'), ('scale@1','rate_limit_per_minute','config','60000');

UPDATE plan_versions SET state = 'published', published_at = now();
"""

GRANTS = """
GRANT SELECT ON meters, plans, plan_versions, prices, price_tiers, entitlements, subscriptions TO saas_tenant;
GRANT SELECT, INSERT ON billing_periods TO saas_tenant;
GRANT SELECT, INSERT, UPDATE ON subscription_segments TO saas_tenant;
GRANT SELECT, INSERT ON subscriptions, billing_profiles TO saas_tenant;
GRANT UPDATE (bill_to, tax_id, collection, spend_cap_minor, spend_cap_is_default, spend_cap_action) ON
billing_profiles TO saas_tenant;
GRANT DELETE ON subscription_segments TO saas_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON meters, plans, plan_versions, prices, price_tiers, entitlements,
billing_profiles, subscriptions, subscription_segments, billing_periods TO saas_system;
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
