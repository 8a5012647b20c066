"""Divide the audit log into partitions by month, in the order of its hash chain.

The table of before becomes the partition of the present month, with all that it has: nothing is copied.
"""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0030"
down_revision = "0029"

CREATE_PARTITION = """
CREATE OR REPLACE FUNCTION create_partition(parent text, month date) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
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
  EXECUTE format('INSERT INTO %I {overriding}SELECT * FROM stray', part);
  EXECUTE format('ALTER TABLE %I ENABLE TRIGGER USER', part);
  DROP TABLE stray;
  PERFORM protect_partition(parent, part);
  RETURN true;
END $$;
"""

# Events are moved or deleted by the two functions below alone: only they set the parameter and have the right.
TRIGGERS = """
CREATE TRIGGER audit_events_frozen BEFORE UPDATE ON audit_events FOR EACH ROW
  WHEN (current_setting('saas.changes_audit_log', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION append_only();

CREATE TRIGGER audit_events_kept BEFORE DELETE ON audit_events FOR EACH ROW
  WHEN (current_setting('saas.changes_audit_log', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION append_only();

CREATE CONSTRAINT TRIGGER audit_events_chained AFTER INSERT ON audit_events DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION chain_audit_event();

DROP TRIGGER kept ON audit_chain;

CREATE TRIGGER kept BEFORE DELETE ON audit_chain FOR EACH ROW
  WHEN (current_setting('saas.changes_audit_log', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION append_only();

-- Row-level security binds the owner, who runs the functions, too.
CREATE POLICY changed ON audit_events TO CURRENT_USER
  USING (current_setting('saas.changes_audit_log', true) = 'on');
"""

TABLE = """
ALTER TABLE audit_chain ADD COLUMN month date NOT NULL  -- of the event's partition; never before that of the last row
  DEFAULT date_trunc('month', now() AT TIME ZONE 'UTC');

ALTER TABLE audit_chain ALTER COLUMN month DROP DEFAULT;

ALTER TABLE audit_events RENAME TO audit_events_before;

ALTER TABLE audit_events_before ADD COLUMN month date NOT NULL
  DEFAULT date_trunc('month', now() AT TIME ZONE 'UTC');

CREATE TABLE audit_events (  -- organization_id NULL: platform-wide act of an operator
  id bigint NOT NULL GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME audit_events_new_id_seq),
  organization_id uuid,
  actor_type text NOT NULL
    CONSTRAINT audit_events_actor_type_check CHECK (actor_type IN ('user','api_key','operator','system')),
  actor_id text, on_behalf_of uuid,
  action text NOT NULL, target_type text NOT NULL, target_id text NOT NULL, data jsonb NOT NULL DEFAULT '{}',
  reason text, request_id text, ip inet, at timestamptz NOT NULL,
  month date NOT NULL DEFAULT date_trunc('month', now() AT TIME ZONE 'UTC'),  -- in which it was recorded
  CONSTRAINT audit_events_organization_id_fkey FOREIGN KEY (organization_id) REFERENCES organizations)
  PARTITION BY RANGE (month);

SELECT setval('audit_events_new_id_seq', last_value, is_called) FROM audit_events_id_seq;

ALTER TABLE audit_events_before ALTER COLUMN id DROP IDENTITY, DROP CONSTRAINT audit_events_pkey;

ALTER SEQUENCE audit_events_new_id_seq RENAME TO audit_events_id_seq;

DROP TRIGGER audit_events_frozen ON audit_events_before;

DROP TRIGGER audit_events_kept ON audit_events_before;

DROP TRIGGER audit_events_chained ON audit_events_before;

DROP TRIGGER kept_whole ON audit_events_before;

DROP POLICY tenant ON audit_events_before;

DROP POLICY system ON audit_events_before;

DROP POLICY expired ON audit_events_before;

REVOKE ALL ON audit_events_before FROM saas_tenant, saas_system;
"""

PARTITIONS = """
CREATE TRIGGER kept_whole BEFORE TRUNCATE ON audit_events FOR EACH STATEMENT EXECUTE FUNCTION append_only();

CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT;

SELECT protect_partition('audit_events', 'audit_events_default');

DO $$
DECLARE month date := date_trunc('month', now() AT TIME ZONE 'UTC'); part text;
BEGIN
  part := to_char(month, '"audit_events_y"YYYY"m"MM');
  EXECUTE format('ALTER TABLE audit_events_before RENAME TO %I', part);
  EXECUTE format('ALTER INDEX audit_events_tenant RENAME TO %I', part || '_organization_id_id_idx');
  EXECUTE format('ALTER TABLE audit_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
    part, month, (month + interval '1 month')::date);
  PERFORM protect_partition('audit_events', part);
  PERFORM create_partition('audit_events', (month + make_interval(months => number))::date)
    FROM generate_series(1, 2) number;
END $$;

ALTER TABLE audit_events ADD PRIMARY KEY (id, month);

CREATE INDEX audit_events_tenant ON audit_events (organization_id, id DESC);

GRANT SELECT, INSERT ON audit_events TO saas_tenant, saas_system;

GRANT SELECT ON SEQUENCE audit_events_id_seq TO saas_system;
"""

FUNCTIONS = """
CREATE OR REPLACE FUNCTION chain_audit_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = public, pg_temp AS $$
DECLARE last audit_chain;
BEGIN
  PERFORM pg_advisory_xact_lock(7215904);
  SELECT * INTO last FROM audit_chain ORDER BY position DESC LIMIT 1;
  IF NEW.month < last.month THEN
    -- Its transaction began before the month did. Where it is moved to, it fires this trigger again.
    PERFORM set_config('saas.changes_audit_log', 'on', true);
    UPDATE audit_events SET month = last.month WHERE id = NEW.id AND month = NEW.month;
    PERFORM set_config('saas.changes_audit_log', '', true);
    RETURN NULL;
  END IF;
  INSERT INTO audit_chain VALUES (coalesce(last.position, 0) + 1, NEW.id, sha256(coalesce(last.hash, '')
    || convert_to(jsonb_build_array(NEW.id, NEW.organization_id, NEW.actor_type, NEW.actor_id, NEW.on_behalf_of,
    NEW.action, NEW.target_type, NEW.target_id, NEW.data, NEW.reason, NEW.request_id, NEW.ip,
    extract(epoch FROM NEW.at))::text, 'UTF8')), NEW.month);
  RETURN NULL;
END $$;

-- Deletes from the oldest end of the chain, up to the first event that is younger than keep_days: partitions of months
-- that have expired whole, and at most max_events of the month after them. The chain keeps the row of the last deleted
-- event: the hash of the next one covers its hash. No event of the last 90 days can be deleted, whatever the caller
-- says. An archived event is as old as the end of its month.
CREATE OR REPLACE FUNCTION delete_expired_audit_events(keep_days int, max_events int)
  RETURNS TABLE (deleted bigint, head text) LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = public, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
  oldest timestamptz := now() - make_interval(days => keep_days);
  before_first bigint; last_expired bigint; kept_month date; last_of_months bigint; part text;
BEGIN
  IF keep_days < 90 THEN RAISE EXCEPTION 'audit events are kept for 90 days or more'; END IF;
  PERFORM set_config('saas.changes_audit_log', 'on', true);
  SELECT c.position - (e.id IS NOT NULL)::int INTO before_first
    FROM audit_chain c LEFT JOIN audit_events e ON e.id = c.event_id AND e.month = c.month ORDER BY c.position LIMIT 1;
  SELECT c.position - 1, c.month INTO last_expired, kept_month
    FROM audit_chain c LEFT JOIN audit_events e ON e.id = c.event_id AND e.month = c.month
    LEFT JOIN archived_partitions a ON a.table_name = 'audit_events' AND a.month = c.month
   WHERE e.at >= oldest OR e.id IS NULL AND (a.month + interval '1 month') AT TIME ZONE 'UTC' >= oldest
   ORDER BY c.position LIMIT 1;
  IF NOT FOUND THEN
    SELECT max(c.position), date_trunc('month', now() AT TIME ZONE 'UTC') INTO last_expired, kept_month
      FROM audit_chain c;
  END IF;
  BEGIN
    FOR part IN SELECT name FROM (
        SELECT inhrelid::regclass::text AS name,
          to_date(substring(inhrelid::regclass::text FROM '_y([0-9]{4}m[0-9]{2})$'), 'YYYY"m"MM') AS month
        FROM pg_inherits WHERE inhparent = 'audit_events'::regclass) parts WHERE month < kept_month LOOP
      EXECUTE format('ALTER TABLE audit_events DETACH PARTITION %I', part);
      EXECUTE format('DROP TABLE %I', part);
    END LOOP;
    SELECT max(c.position) INTO last_of_months FROM audit_chain c WHERE c.month < kept_month;
  EXCEPTION WHEN lock_not_available THEN NULL;  -- readers are in the way: rows are deleted, and partitions another day
  END;
  last_expired := least(last_expired, greatest(before_first + max_events, last_of_months));
  DELETE FROM audit_events e USING audit_chain c
   WHERE c.event_id = e.id AND c.month = e.month AND c.position <= last_expired;
  DELETE FROM audit_chain c WHERE c.position < last_expired;
  DELETE FROM archived_partitions a WHERE a.table_name = 'audit_events'
    AND a.month < coalesce((SELECT c.month FROM audit_chain c WHERE c.position = last_expired + 1), kept_month);
  PERFORM set_config('saas.changes_audit_log', '', true);
  deleted := last_expired - before_first;
  IF deleted > 0 THEN
    SELECT c.position || ':' || encode(c.hash, 'hex') INTO head FROM audit_chain c WHERE c.position = last_expired;
    RETURN NEXT;
  END IF;
END $$;
"""

DOWN = """
DO $$ BEGIN
  IF EXISTS (SELECT FROM archived_partitions WHERE table_name = 'audit_events') THEN
    RAISE EXCEPTION 'partitions are archived: restore them before the downgrade';
  END IF;
END $$;

ALTER TABLE audit_events RENAME TO audit_events_by_month;

ALTER TABLE audit_events_by_month RENAME CONSTRAINT audit_events_pkey TO audit_events_by_month_pkey;

ALTER INDEX audit_events_tenant RENAME TO audit_events_by_month_tenant;

ALTER SEQUENCE audit_events_id_seq RENAME TO audit_events_by_month_id_seq;

CREATE TABLE audit_events (  -- organization_id NULL: platform-wide act of an operator
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, organization_id uuid REFERENCES organizations,
  actor_type text NOT NULL CHECK (actor_type IN ('user','api_key','operator','system')), actor_id text,
  on_behalf_of uuid,
  action text NOT NULL, target_type text NOT NULL, target_id text NOT NULL, data jsonb NOT NULL DEFAULT '{}',
  reason text, request_id text, ip inet, at timestamptz NOT NULL);

GRANT SELECT, INSERT ON audit_events TO saas_tenant, saas_system;

GRANT SELECT ON SEQUENCE audit_events_id_seq TO saas_system;

SET LOCAL ROLE saas_system;

INSERT INTO audit_events OVERRIDING SYSTEM VALUE
SELECT id, organization_id, actor_type, actor_id, on_behalf_of, action, target_type, target_id, data, reason,
  request_id, ip, at FROM audit_events_by_month ORDER BY id;

RESET ROLE;

SELECT setval('audit_events_id_seq', last_value, is_called) FROM audit_events_by_month_id_seq;

DROP TABLE audit_events_by_month;

CREATE INDEX audit_events_tenant ON audit_events (organization_id, id DESC);

CREATE TRIGGER audit_events_frozen BEFORE UPDATE ON audit_events FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE TRIGGER audit_events_kept BEFORE DELETE ON audit_events FOR EACH ROW
  WHEN (current_setting('saas.deletes_expired_events', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION append_only();

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON audit_events FOR EACH STATEMENT EXECUTE FUNCTION append_only();

CREATE CONSTRAINT TRIGGER audit_events_chained AFTER INSERT ON audit_events DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION chain_audit_event();

DROP TRIGGER kept ON audit_chain;

CREATE TRIGGER kept BEFORE DELETE ON audit_chain FOR EACH ROW
  WHEN (current_setting('saas.deletes_expired_events', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION append_only();

CREATE POLICY expired ON audit_events TO CURRENT_USER
  USING (current_setting('saas.deletes_expired_events', true) = 'on');

ALTER TABLE audit_chain DROP COLUMN month;
"""

OLD_FUNCTIONS = """
CREATE OR REPLACE FUNCTION chain_audit_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = public, pg_temp AS $$
DECLARE last audit_chain;
BEGIN
  PERFORM pg_advisory_xact_lock(7215904);
  SELECT * INTO last FROM audit_chain ORDER BY position DESC LIMIT 1;
  INSERT INTO audit_chain VALUES (coalesce(last.position, 0) + 1, NEW.id, sha256(coalesce(last.hash, '')
    || convert_to(jsonb_build_array(NEW.id, NEW.organization_id, NEW.actor_type, NEW.actor_id, NEW.on_behalf_of,
    NEW.action, NEW.target_type, NEW.target_id, NEW.data, NEW.reason, NEW.request_id, NEW.ip,
    extract(epoch FROM NEW.at))::text, 'UTF8')));
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION delete_expired_audit_events(keep_days int, max_events int)
  RETURNS TABLE (deleted bigint, head text)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE last_expired bigint;
BEGIN
  IF keep_days < 90 THEN RAISE EXCEPTION 'audit events are kept for 90 days or more'; END IF;
  PERFORM set_config('saas.deletes_expired_events', 'on', true);
  SELECT c.position - 1 INTO last_expired FROM audit_chain c JOIN audit_events e ON e.id = c.event_id
   WHERE e.at >= now() - make_interval(days => keep_days) ORDER BY c.position LIMIT 1;
  SELECT least(coalesce(last_expired, max(c.position)), min(c.position) + max_events) INTO last_expired
    FROM audit_chain c;
  DELETE FROM audit_events e USING audit_chain c WHERE c.event_id = e.id AND c.position <= last_expired;
  GET DIAGNOSTICS deleted = ROW_COUNT;
  DELETE FROM audit_chain c WHERE c.position < last_expired;
  PERFORM set_config('saas.deletes_expired_events', '', true);
  IF deleted > 0 THEN
    SELECT c.position || ':' || encode(c.hash, 'hex') INTO head FROM audit_chain c WHERE c.position = last_expired;
    RETURN NEXT;
  END IF;
END $$;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    for statements in (CREATE_PARTITION.replace("{overriding}", "OVERRIDING SYSTEM VALUE "), TABLE, PARTITIONS):
        run(statements)
    run(isolate("audit_events"))
    run(TRIGGERS)
    run(FUNCTIONS)


def downgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    run(DOWN)
    run(isolate("audit_events"))
    run(OLD_FUNCTIONS)
    run(CREATE_PARTITION.replace("{overriding}", ""))
