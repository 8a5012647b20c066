"""Meters with aggregations and dimensions, prices by dimension, test usage of every meter, and external ids."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0018"
down_revision = "0017"

METERS = """
ALTER TABLE meters DROP CONSTRAINT meters_aggregation_check,
  ADD CONSTRAINT meters_aggregation_check CHECK (aggregation IN ('sum','count','max','unique','latest')),
  ADD COLUMN description text NOT NULL DEFAULT '',
  ADD COLUMN service text,  -- name of the service that reports it; NULL for any
  ADD COLUMN follows_rate_setting boolean NOT NULL DEFAULT false,  -- BILLING_RATE_PER_REQUEST prices it on small plans
  ADD COLUMN value_property text, ADD COLUMN unique_property text,
  ADD COLUMN dimensions text[] NOT NULL DEFAULT '{}' CHECK (cardinality(dimensions) <= 5),
  ADD CHECK ((aggregation = 'unique') = (unique_property IS NOT NULL)),
  ADD CHECK (value_property IS NULL OR aggregation IN ('sum','max','latest'));

CREATE UNIQUE INDEX meters_rate_setting ON meters (follows_rate_setting) WHERE follows_rate_setting;

UPDATE meters SET service = 'messages', follows_rate_setting = (code = 'sms') WHERE code IN ('sms','email');

-- What has been recorded keeps its meaning. The lock waits for usage that is being recorded.
CREATE FUNCTION meter_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM meters WHERE code = OLD.code FOR UPDATE;
  IF EXISTS (SELECT FROM usage_events WHERE meter_code = OLD.code) THEN
    RAISE EXCEPTION 'meter % has usage: publish another meter', OLD.code USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;

CREATE TRIGGER fixed BEFORE UPDATE ON meters FOR EACH ROW
  WHEN ((OLD.aggregation, OLD.value_property, OLD.unique_property, OLD.unit)
    IS DISTINCT FROM (NEW.aggregation, NEW.value_property, NEW.unique_property, NEW.unit))
  EXECUTE FUNCTION meter_fixed();
"""

# A price by dimension has one row for each value and one with '' for all other values.
PRICES = """
ALTER TABLE price_tiers DROP CONSTRAINT price_tiers_plan_version_id_meter_code_fkey, DROP CONSTRAINT price_tiers_pkey;

ALTER TABLE prices DROP CONSTRAINT prices_pkey,
  ADD COLUMN dimension text,
  ADD COLUMN dimension_value text NOT NULL DEFAULT '',
  ADD CHECK (dimension IS NOT NULL OR dimension_value = ''),
  ADD PRIMARY KEY (plan_version_id, meter_code, dimension_value);

ALTER TABLE price_tiers ADD COLUMN dimension_value text NOT NULL DEFAULT '',
  ADD PRIMARY KEY (plan_version_id, meter_code, dimension_value, ordinal),
  ADD FOREIGN KEY (plan_version_id, meter_code, dimension_value) REFERENCES prices;

CREATE OR REPLACE FUNCTION catalogue_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
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
                    AND dimension_value = p.dimension_value
                 WINDOW w AS (ORDER BY ordinal)) t), false) LIMIT 1;
      IF bad IS NOT NULL THEN RAISE EXCEPTION 'tiers of %/% are malformed', NEW.id,
      bad USING ERRCODE = 'check_violation'; END IF;
  -- prices by dimension: one dimension for a meter, and a row for all other values
      SELECT p.meter_code INTO bad FROM prices p WHERE p.plan_version_id = NEW.id GROUP BY p.meter_code
       HAVING count(DISTINCT coalesce(p.dimension, '')) > 1 OR NOT bool_or(p.dimension_value = '') LIMIT 1;
      IF bad IS NOT NULL THEN RAISE EXCEPTION 'prices of %/% are malformed', NEW.id,
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
"""

LEDGER = """
ALTER TABLE usage_events
  ADD COLUMN endpoint text CHECK (length(endpoint) BETWEEN 1 AND 255),  -- of the service's API; shown, never billed
  ADD COLUMN unique_value text;  -- what a meter with aggregation unique counts

-- A reversal counts where its event counts: under the same price, endpoint and unique value.
CREATE FUNCTION reversal_like_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE event record;
BEGIN
  SELECT properties, endpoint, unique_value INTO event FROM usage_events
   WHERE organization_id = NEW.organization_id AND id = NEW.reversal_of;
  IF FOUND THEN
    NEW.properties := event.properties; NEW.endpoint := event.endpoint; NEW.unique_value := event.unique_value;
  END IF;
  RETURN NEW;
END $$;

CREATE TRIGGER like_event BEFORE INSERT ON usage_events FOR EACH ROW WHEN (NEW.reversal_of IS NOT NULL)
  EXECUTE FUNCTION reversal_like_event();

ALTER TABLE usage_rollups ADD COLUMN dimensions jsonb NOT NULL DEFAULT '{}',
  DROP CONSTRAINT usage_rollups_pkey,
  ADD PRIMARY KEY (organization_id, billing_period_id, bucket_at, meter_code, source, api_key_id, is_late, dimensions);

CREATE TABLE test_usage_events (  -- calls of test keys: shown, never billed, so they have no period
  organization_id uuid NOT NULL REFERENCES organizations, id uuid NOT NULL,
  source text NOT NULL, idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
  meter_code text NOT NULL REFERENCES meters, quantity numeric(20,6) NOT NULL CHECK (quantity > 0),
  occurred_at timestamptz NOT NULL, api_key_id uuid, endpoint text CHECK (length(endpoint) BETWEEN 1 AND 255),
  properties jsonb NOT NULL DEFAULT '{}', PRIMARY KEY (organization_id, id),
  UNIQUE (organization_id, source, idempotency_key));

CREATE INDEX test_usage_events_time ON test_usage_events (organization_id, occurred_at);
"""

GRANTS = """
GRANT SELECT, INSERT ON test_usage_events TO saas_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON test_usage_events TO saas_system;
"""

TEST_MESSAGES = """
SET LOCAL ROLE saas_system;
INSERT INTO test_usage_events
  (organization_id, id, source, idempotency_key, meter_code, quantity, occurred_at, api_key_id)
SELECT organization_id, gen_random_uuid(), 'messages.send', id::text, channel,
  CASE channel WHEN 'sms' THEN segments ELSE 1 END, accepted_at, api_key_id
FROM messages WHERE mode = 'test';
RESET ROLE;
"""

ORGANIZATIONS = """
ALTER TABLE organizations ADD COLUMN external_id text UNIQUE CHECK (length(external_id) BETWEEN 1 AND 255);

CREATE UNIQUE INDEX api_keys_id ON api_keys (id);  -- a service names a key without its organization
"""

DOWN = """
DROP INDEX api_keys_id;

ALTER TABLE organizations DROP COLUMN external_id;

DROP TABLE test_usage_events;

ALTER TABLE usage_rollups DROP CONSTRAINT usage_rollups_pkey, DROP COLUMN dimensions,
  ADD PRIMARY KEY (organization_id, billing_period_id, bucket_at, meter_code, source, api_key_id, is_late);

DROP TRIGGER like_event ON usage_events;

DROP FUNCTION reversal_like_event();

ALTER TABLE usage_events DROP COLUMN endpoint, DROP COLUMN unique_value;

ALTER TABLE price_tiers DROP CONSTRAINT price_tiers_plan_version_id_meter_code_dimension_value_fkey,
  DROP COLUMN dimension_value;

ALTER TABLE prices DROP COLUMN dimension_value, DROP COLUMN dimension, ADD PRIMARY KEY (plan_version_id, meter_code);

ALTER TABLE price_tiers ADD PRIMARY KEY (plan_version_id, meter_code, ordinal),
  ADD FOREIGN KEY (plan_version_id, meter_code) REFERENCES prices;

DROP TRIGGER fixed ON meters;

DROP FUNCTION meter_fixed();

ALTER TABLE meters DROP COLUMN description, DROP COLUMN service, DROP COLUMN follows_rate_setting,
  DROP COLUMN value_property, DROP COLUMN unique_property, DROP COLUMN dimensions,
  DROP CONSTRAINT meters_aggregation_check,
  ADD CONSTRAINT meters_aggregation_check CHECK (aggregation IN ('sum'));
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    for statements in (
        METERS,
        PRICES,
        LEDGER,
        isolate("test_usage_events"),
        GRANTS,
        TEST_MESSAGES,
        ORGANIZATIONS,
    ):
        run(statements)


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
