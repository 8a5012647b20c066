"""Divide the usage ledger into partitions by month; what it must never record twice stays in a slim table.

The ledger is copied, so this migration waits for calls to stop and takes a minute for each two million events.
"""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0024"
down_revision = "0023"

PERIODS = """
-- The month in whose partition the usage is that the period pays for. It is that of the first start, also where a cut
-- of the period before moves it. At UTC+14, the first zone where a month begins, so that the calendar month of an
-- organization is this month wherever it is.
ALTER TABLE billing_periods ADD COLUMN month date;

SET LOCAL ROLE saas_system;

UPDATE billing_periods SET month = date_trunc('month', starts_at AT TIME ZONE 'UTC' + interval '14 hours');

RESET ROLE;

CREATE FUNCTION period_month() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.month := date_trunc('month', NEW.starts_at AT TIME ZONE 'UTC' + interval '14 hours');
  RETURN NEW;
END $$;

CREATE TRIGGER month BEFORE INSERT ON billing_periods FOR EACH ROW EXECUTE FUNCTION period_month();

ALTER TABLE billing_periods ALTER COLUMN month SET NOT NULL, ADD UNIQUE (organization_id, id, month);

CREATE OR REPLACE FUNCTION period_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (OLD.state, NEW.state) NOT IN
      (('open','open'),('open','closed'),('closed','closed'),('closed','invoiced'),('invoiced','invoiced')) THEN
    RAISE EXCEPTION 'period % -> % not allowed', OLD.state, NEW.state USING ERRCODE = 'restrict_violation';
  END IF;
  IF NEW.month <> OLD.month OR OLD.state <> 'open'
      AND (NEW.starts_at, NEW.ends_at, NEW.seq, NEW.nominal_seconds, NEW.closed_at, NEW.is_cut)
      IS DISTINCT FROM (OLD.starts_at, OLD.ends_at, OLD.seq, OLD.nominal_seconds, OLD.closed_at, OLD.is_cut) THEN
    RAISE EXCEPTION 'a % period keeps its bounds', OLD.state USING ERRCODE = 'restrict_violation';
  END IF;
  -- The chain keys make a cut one UPDATE over two rows: this end and, where it exists, the successor's start.
  IF NEW.is_cut < OLD.is_cut OR NEW.ends_at < OLD.ends_at AND NOT NEW.is_cut AND EXISTS (SELECT FROM usage_events
      WHERE organization_id = OLD.organization_id AND billing_period_id = OLD.id AND month = OLD.month) THEN
    RAISE EXCEPTION 'a period that owns usage is shortened by a cut only' USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
"""

PARTITIONS = """
CREATE TABLE archived_partitions (  -- months of partitioned tables that are in files and no longer here
  table_name text NOT NULL, month date NOT NULL, row_count bigint NOT NULL, sha256 text NOT NULL,  -- of the file
  archived_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (table_name, month));

GRANT SELECT ON archived_partitions TO saas_tenant, saas_system;

-- Adds the partition of a month and moves rows into it that came before it existed. Runs as the owner, because neither
-- role of the application creates tables. Only backups read a partition by its own name.
CREATE FUNCTION create_partition(parent text, month date) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = public, pg_temp AS $$
DECLARE
  part text := parent || to_char(month, '"_y"YYYY"m"MM'); remainder text := parent || '_default';
  first text := month; next text := (month + interval '1 month')::date; key text; is_instant boolean;
BEGIN
  SELECT a.attname, a.atttypid = 'timestamptz'::regtype INTO key, is_instant
  FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
  WHERE p.partrelid = to_regclass(quote_ident(parent));
  IF NOT FOUND OR month <> date_trunc('month', month) THEN
    RAISE EXCEPTION 'no partition of % begins on %', parent, month USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF is_instant THEN
    first := first || ' 00:00+00'; next := next || ' 00:00+00';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended(part, 4));
  IF to_regclass(quote_ident(part)) IS NOT NULL THEN
    RETURN false;
  END IF;
  EXECUTE format('ALTER TABLE %I NO FORCE ROW LEVEL SECURITY, DISABLE TRIGGER USER', remainder);
  EXECUTE format('CREATE TEMPORARY TABLE stray ON COMMIT DROP AS SELECT * FROM %I WHERE %I >= %L AND %I < %L',
    remainder, key, first, key, next);
  EXECUTE format('DELETE FROM %I WHERE %I >= %L AND %I < %L', remainder, key, first, key, next);
  EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY, ENABLE TRIGGER USER', remainder);
  EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part, parent);
  -- Attached while it is empty: foreign keys of many rows at once are checked as the owner, who sees no other tenant
  -- table; those of one row are not.
  EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part, first, next);
  EXECUTE format('ALTER TABLE %I DISABLE TRIGGER USER', part);
  EXECUTE format('INSERT INTO %I SELECT * FROM stray', part);
  EXECUTE format('ALTER TABLE %I ENABLE TRIGGER USER', part);
  DROP TABLE stray;
  PERFORM protect_partition(parent, part);
  RETURN true;
END $$;

CREATE FUNCTION protect_partition(parent text, part text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', part);
  EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', part);
  EXECUTE format('CREATE POLICY system ON %I FOR SELECT TO saas_system USING (true)', part);
  EXECUTE format('GRANT SELECT ON %I TO saas_system', part);
  IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(quote_ident(parent)) AND tgname = 'kept_whole') THEN
    EXECUTE format('CREATE TRIGGER kept_whole BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION append_only()',
      part);
  END IF;
END $$;

-- Autovacuum analyzes partitions and never the table that they are of, whose statistics joins are planned by.
CREATE FUNCTION analyze_partitioned_tables() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = public, pg_temp AS $$
DECLARE name text;
BEGIN
  FOR name IN SELECT partrelid::regclass::text FROM pg_partitioned_table LOOP
    EXECUTE 'ANALYZE ' || name;
  END LOOP;
END $$;

REVOKE ALL ON FUNCTION create_partition(text, date), protect_partition(text, text), analyze_partitioned_tables()
  FROM PUBLIC;

GRANT EXECUTE ON FUNCTION create_partition(text, date), analyze_partitioned_tables() TO saas_system;
"""

LEDGER = """
ALTER TABLE usage_events_ahead DROP CONSTRAINT usage_events_ahead_organization_id_event_id_fkey,
  ADD COLUMN month date;  -- of the event's partition

ALTER TABLE usage_events RENAME TO usage_events_before;

CREATE TABLE usage_event_keys (  -- what was recorded once, for ever, also after its partition is archived
  organization_id uuid NOT NULL, source text NOT NULL,
  idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
  event_id uuid NOT NULL, month date NOT NULL,  -- of the event's partition
  quantity numeric(20,6) NOT NULL);

-- Constraints have the names that they would have if the table of before did not hold them.
CREATE TABLE usage_events (
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(),
  source text NOT NULL, idempotency_key text NOT NULL,
  meter_code text NOT NULL,
  quantity numeric(20,6) NOT NULL CONSTRAINT usage_events_quantity_check CHECK (quantity <> 0),
  occurred_at timestamptz NOT NULL, recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  recorded_xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,  -- settled once below every snapshot's xmin
  api_key_id uuid, message_id uuid, properties jsonb NOT NULL DEFAULT '{}',
  billing_period_id uuid NOT NULL,  -- the ONE period that pays
  late_for_period_id uuid,  -- the closed period that occurred_at lies in
  reversal_of uuid,
  -- of the service's API; shown, never billed
  endpoint text CONSTRAINT usage_events_endpoint_check CHECK (length(endpoint) BETWEEN 1 AND 255),
  unique_value text,  -- what a meter with aggregation unique counts
  month date NOT NULL,  -- of the period that pays
  CONSTRAINT usage_events_negative_is_reversal CHECK (quantity > 0 OR reversal_of IS NOT NULL),
  -- The key of a reversal is its event, so an event has one.
  CONSTRAINT usage_events_one_reversal
    CHECK (reversal_of IS NULL OR source = 'reversal' AND idempotency_key = reversal_of::text),
  CONSTRAINT usage_events_check CHECK (late_for_period_id <> billing_period_id),
  CONSTRAINT usage_events_meter_code_fkey FOREIGN KEY (meter_code) REFERENCES meters,
  CONSTRAINT usage_events_organization_id_billing_period_id_fkey
    FOREIGN KEY (organization_id, billing_period_id, month) REFERENCES billing_periods (organization_id, id, month),
  CONSTRAINT usage_events_organization_id_late_for_period_id_fkey
    FOREIGN KEY (organization_id, late_for_period_id) REFERENCES billing_periods (organization_id, id))
  PARTITION BY RANGE (month);

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON usage_events FOR EACH STATEMENT EXECUTE FUNCTION append_only();

CREATE TABLE usage_events_default PARTITION OF usage_events DEFAULT;  -- no write is refused for want of a partition

SELECT protect_partition('usage_events', 'usage_events_default');

GRANT SELECT, INSERT ON usage_events, usage_event_keys TO saas_tenant;

GRANT SELECT, INSERT, UPDATE, DELETE ON usage_events, usage_event_keys TO saas_system;
"""

COPY = """
SET LOCAL ROLE saas_system;

SELECT create_partition('usage_events', month) FROM (
  SELECT month FROM billing_periods p WHERE EXISTS (SELECT FROM usage_events_before e
    WHERE e.organization_id = p.organization_id AND e.billing_period_id = p.id)
  UNION
  SELECT generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'), now() AT TIME ZONE 'UTC' + interval '2 months',
    '1 month')::date) months;

INSERT INTO usage_events
SELECT e.organization_id, e.id, e.source, e.idempotency_key, e.meter_code, e.quantity, e.occurred_at, e.recorded_at,
  e.recorded_xid, e.api_key_id, e.message_id, e.properties, e.billing_period_id, e.late_for_period_id, e.reversal_of,
  e.endpoint, e.unique_value, p.month
FROM usage_events_before e
JOIN billing_periods p ON p.organization_id = e.organization_id AND p.id = e.billing_period_id ORDER BY e.recorded_xid;

INSERT INTO usage_event_keys
SELECT organization_id, source, idempotency_key, id, month, quantity FROM usage_events ORDER BY recorded_xid;

UPDATE usage_events_ahead a SET month = k.month FROM usage_events k
WHERE k.organization_id = a.organization_id AND k.id = a.event_id;

RESET ROLE;

ALTER TABLE usage_events_ahead ALTER COLUMN month SET NOT NULL;

DROP TABLE usage_events_before;
"""

KEYS = """
ALTER TABLE usage_event_keys ADD PRIMARY KEY (organization_id, source, idempotency_key);

ALTER TABLE usage_events ADD PRIMARY KEY (organization_id, id, month);

CREATE INDEX usage_events_meter ON usage_events (organization_id, billing_period_id, meter_code, recorded_xid);

CREATE INDEX usage_events_late ON usage_events (organization_id, late_for_period_id)
  WHERE late_for_period_id IS NOT NULL;

CREATE INDEX usage_events_reversal ON usage_events (organization_id, reversal_of) WHERE reversal_of IS NOT NULL;

CREATE INDEX usage_events_settled ON usage_events USING brin (recorded_xid) WITH (pages_per_range = 16,
  autosummarize = on);
"""

TRIGGERS = """
CREATE TRIGGER frozen BEFORE UPDATE OR DELETE ON usage_events FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE TRIGGER frozen BEFORE UPDATE OR DELETE ON usage_event_keys FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON usage_event_keys FOR EACH STATEMENT EXECUTE FUNCTION append_only();

-- No foreign key refers to events, because those of an archived month are gone while their reversals are here.
CREATE OR REPLACE FUNCTION reversal_like_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE event record;
BEGIN
  SELECT properties, endpoint, unique_value INTO event FROM usage_events
   WHERE organization_id = NEW.organization_id AND id = NEW.reversal_of;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no event % to reverse', NEW.reversal_of USING ERRCODE = 'foreign_key_violation';
  END IF;
  NEW.properties := event.properties; NEW.endpoint := event.endpoint; NEW.unique_value := event.unique_value;
  RETURN NEW;
END $$;

CREATE TRIGGER like_event BEFORE INSERT ON usage_events FOR EACH ROW WHEN (NEW.reversal_of IS NOT NULL)
  EXECUTE FUNCTION reversal_like_event();

-- What the watermark has not reached, with the source of the reversed event for a reversal. A function, because its
-- plan is kept: to plan it with three years of partitions takes as long as the whole read. Every period and meter is
-- looked up in its partition, and events dated ahead one by one; OFFSET 0 keeps the planner from reading every row of
-- the organization instead.
CREATE FUNCTION usage_tail(organization uuid) RETURNS TABLE (organization_id uuid, billing_period_id uuid,
  late_for_period_id uuid, meter_code text, source text, endpoint text, api_key_id uuid, properties jsonb,
  quantity numeric, reversal_of uuid, occurred_at timestamptz)
  LANGUAGE plpgsql STABLE ROWS 100 SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT e.organization_id, e.billing_period_id, e.late_for_period_id, e.meter_code,
    CASE WHEN e.reversal_of IS NULL THEN e.source ELSE (SELECT r.source FROM usage_events r
      WHERE r.organization_id = e.organization_id AND r.id = e.reversal_of) END,
    e.endpoint, e.api_key_id, e.properties, e.quantity, e.reversal_of, e.occurred_at
  FROM (
    SELECT e.* FROM billing_periods p CROSS JOIN meters m CROSS JOIN LATERAL (
      SELECT * FROM usage_events WHERE organization_id = organization AND billing_period_id = p.id
        AND month = p.month AND meter_code = m.code AND recorded_xid >= usage_rolled_through()
        AND recorded_at > (SELECT floor_at FROM usage_watermark) OFFSET 0) e
    WHERE p.organization_id = organization
    UNION ALL
    SELECT e.* FROM usage_events_ahead a CROSS JOIN LATERAL (
      SELECT * FROM usage_events WHERE organization_id = organization AND id = a.event_id AND month = a.month
      OFFSET 0) e
    WHERE a.organization_id = organization) e;
END $$;

-- Rollups stay when their events are archived.
CREATE OR REPLACE FUNCTION meter_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM meters WHERE code = OLD.code FOR UPDATE;
  IF EXISTS (SELECT FROM usage_events WHERE meter_code = OLD.code)
      OR EXISTS (SELECT FROM usage_rollups WHERE meter_code = OLD.code) THEN
    RAISE EXCEPTION 'meter % has usage: publish another meter', OLD.code USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;
"""

DOWN = """
DO $$ BEGIN
  IF EXISTS (SELECT FROM archived_partitions) THEN
    RAISE EXCEPTION 'partitions are archived: restore them before the downgrade';
  END IF;
END $$;

ALTER TABLE usage_events RENAME TO usage_events_by_month;

CREATE TABLE usage_events (
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(),
  source text NOT NULL, idempotency_key text NOT NULL
    CONSTRAINT usage_events_idempotency_key_check CHECK (length(idempotency_key) BETWEEN 1 AND 255),
  meter_code text NOT NULL,
  quantity numeric(20,6) NOT NULL CONSTRAINT usage_events_quantity_check CHECK (quantity <> 0),
  occurred_at timestamptz NOT NULL, recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  recorded_xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
  api_key_id uuid, message_id uuid, properties jsonb NOT NULL DEFAULT '{}',
  billing_period_id uuid NOT NULL, late_for_period_id uuid, reversal_of uuid,
  endpoint text CONSTRAINT usage_events_endpoint_check CHECK (length(endpoint) BETWEEN 1 AND 255), unique_value text,
  CONSTRAINT usage_events_negative_is_reversal CHECK (quantity > 0 OR reversal_of IS NOT NULL),
  CONSTRAINT usage_events_check CHECK (late_for_period_id <> billing_period_id),
  CONSTRAINT usage_events_meter_code_fkey FOREIGN KEY (meter_code) REFERENCES meters,
  CONSTRAINT usage_events_organization_id_billing_period_id_fkey
    FOREIGN KEY (organization_id, billing_period_id) REFERENCES billing_periods (organization_id, id),
  CONSTRAINT usage_events_organization_id_late_for_period_id_fkey
    FOREIGN KEY (organization_id, late_for_period_id) REFERENCES billing_periods (organization_id, id));

GRANT SELECT, INSERT ON usage_events TO saas_tenant;

GRANT SELECT, INSERT, UPDATE, DELETE ON usage_events TO saas_system;

SET LOCAL ROLE saas_system;

INSERT INTO usage_events
SELECT organization_id, id, source, idempotency_key, meter_code, quantity, occurred_at, recorded_at, recorded_xid,
  api_key_id, message_id, properties, billing_period_id, late_for_period_id, reversal_of, endpoint, unique_value
FROM usage_events_by_month ORDER BY recorded_xid;

RESET ROLE;

DROP TABLE usage_events_by_month;

DROP TABLE usage_event_keys;

ALTER TABLE usage_events ADD PRIMARY KEY (organization_id, id),
  ADD UNIQUE (organization_id, source, idempotency_key);

ALTER TABLE usage_events ADD FOREIGN KEY (organization_id, reversal_of) REFERENCES usage_events (organization_id, id);

ALTER TABLE usage_events_ahead DROP COLUMN month,
  ADD FOREIGN KEY (organization_id, event_id) REFERENCES usage_events (organization_id, id);

CREATE INDEX usage_events_meter ON usage_events (organization_id, billing_period_id, meter_code, recorded_xid);

CREATE INDEX usage_events_late ON usage_events (organization_id, late_for_period_id)
  WHERE late_for_period_id IS NOT NULL;

CREATE UNIQUE INDEX usage_events_one_reversal ON usage_events (organization_id, reversal_of)
  WHERE reversal_of IS NOT NULL;

CREATE INDEX usage_events_settled ON usage_events USING brin (recorded_xid) WITH (pages_per_range = 16,
  autosummarize = on);

CREATE TRIGGER frozen BEFORE UPDATE OR DELETE ON usage_events FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON usage_events FOR EACH STATEMENT EXECUTE FUNCTION append_only();

CREATE TRIGGER like_event BEFORE INSERT ON usage_events FOR EACH ROW WHEN (NEW.reversal_of IS NOT NULL)
  EXECUTE FUNCTION reversal_like_event();

DROP FUNCTION usage_tail(uuid), analyze_partitioned_tables(), create_partition(text, date),
  protect_partition(text, text);

DROP TABLE archived_partitions;

DROP TRIGGER month ON billing_periods;

DROP FUNCTION period_month();
"""

OLD_FUNCTIONS = """
CREATE OR REPLACE FUNCTION period_forward() RETURNS trigger LANGUAGE plpgsql AS $$
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

CREATE OR REPLACE FUNCTION meter_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM meters WHERE code = OLD.code FOR UPDATE;
  IF EXISTS (SELECT FROM usage_events WHERE meter_code = OLD.code) THEN
    RAISE EXCEPTION 'meter % has usage: publish another meter', OLD.code USING ERRCODE = 'restrict_violation';
  END IF;
  RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION reversal_like_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE event record;
BEGIN
  SELECT properties, endpoint, unique_value INTO event FROM usage_events
   WHERE organization_id = NEW.organization_id AND id = NEW.reversal_of;
  IF FOUND THEN
    NEW.properties := event.properties; NEW.endpoint := event.endpoint; NEW.unique_value := event.unique_value;
  END IF;
  RETURN NEW;
END $$;

ALTER TABLE billing_periods DROP COLUMN month;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    for statements in (PERIODS, PARTITIONS, LEDGER, COPY, KEYS):
        run(statements)
    for table in ("usage_events", "usage_event_keys"):
        run(isolate(table))
    run(TRIGGERS)


def downgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    run(DOWN)
    run(isolate("usage_events"))
    run(OLD_FUNCTIONS)
