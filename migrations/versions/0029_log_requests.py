"""Count every call by minute, status and latency instead of refused ones by hour, and keep a log of requests."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0029"
down_revision = "0028"

TAKE_OUT = """
DO $$ BEGIN
  IF EXISTS (SELECT FROM archived_partitions WHERE table_name = 'request_counts') THEN
    RAISE EXCEPTION 'months of request_counts are archived: restore them first, their columns change';
  END IF;
END $$;

ALTER TABLE request_counts NO FORCE ROW LEVEL SECURITY;

CREATE TEMPORARY TABLE request_counts_before ON COMMIT DROP AS SELECT * FROM request_counts;

GRANT SELECT ON request_counts_before TO saas_system;

DROP TABLE request_counts;
"""
TABLE = """
CREATE TABLE request_counts (  -- calls under a key by minute, later by local hour; statistics, not money
  organization_id uuid NOT NULL CONSTRAINT request_counts_organization_id_fkey REFERENCES organizations,
  bucket_at timestamptz NOT NULL, api_key_id uuid NOT NULL, route text NOT NULL, method text NOT NULL,
  mode text NOT NULL CONSTRAINT request_counts_mode_check CHECK (mode IN ('live','test')),
  status smallint NOT NULL CONSTRAINT request_counts_status_check CHECK (status BETWEEN 100 AND 599),
  is_hour boolean NOT NULL,
  requests bigint NOT NULL CONSTRAINT request_counts_requests_check CHECK (requests > 0),
  latency integer[] NOT NULL DEFAULT '{}',  -- calls of less than 1 ms, 2 ms, 4 ms and so on
  PRIMARY KEY (organization_id, bucket_at, api_key_id, route, method, mode, status, is_hour))
  PARTITION BY RANGE (bucket_at);

CREATE INDEX request_counts_minutes ON request_counts (bucket_at) WHERE NOT is_hour;

GRANT SELECT ON request_counts TO saas_tenant;

GRANT SELECT, INSERT, UPDATE, DELETE ON request_counts TO saas_system;
"""
TABLE_BEFORE = """
CREATE TABLE request_counts (  -- refused calls under a key, by local hour; statistics, not money
  organization_id uuid NOT NULL CONSTRAINT request_counts_organization_id_fkey REFERENCES organizations,
  bucket_at timestamptz NOT NULL, api_key_id uuid NOT NULL, route text NOT NULL, method text NOT NULL,
  mode text NOT NULL CONSTRAINT request_counts_mode_check CHECK (mode IN ('live','test')),
  outcome text NOT NULL CONSTRAINT request_counts_outcome_check CHECK (outcome IN ('failed','rate_limited')),
  requests bigint NOT NULL CONSTRAINT request_counts_requests_check CHECK (requests > 0),
  PRIMARY KEY (organization_id, bucket_at, api_key_id, route, method, mode, outcome)) PARTITION BY RANGE (bucket_at);

GRANT SELECT ON request_counts TO saas_tenant;

GRANT SELECT, INSERT, UPDATE, DELETE ON request_counts TO saas_system;
"""
PARTITIONS = """
CREATE TABLE request_counts_default PARTITION OF request_counts DEFAULT;

SELECT protect_partition('request_counts', 'request_counts_default');

SET LOCAL ROLE saas_system;

SELECT create_partition('request_counts', month) FROM (
  SELECT DISTINCT date_trunc('month', bucket_at AT TIME ZONE 'UTC')::date AS month FROM request_counts_before
  UNION
  SELECT generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'), now() AT TIME ZONE 'UTC' + interval '2 months',
    '1 month')::date) months;

RESET ROLE;
"""
COPY = """
SET LOCAL ROLE saas_system;

INSERT INTO request_counts  -- the status of other refusals was not kept
SELECT organization_id, bucket_at, api_key_id, route, method, mode, CASE outcome WHEN 'rate_limited' THEN 429 ELSE 400
  END, true, requests FROM request_counts_before;

RESET ROLE;
"""
COPY_BACK = """
SET LOCAL ROLE saas_system;

INSERT INTO request_counts
SELECT c.organization_id, date_trunc('hour', c.bucket_at, o.timezone), api_key_id, route, method, mode,
  CASE c.status WHEN 429 THEN 'rate_limited' ELSE 'failed' END, sum(requests)
FROM request_counts_before c JOIN organizations o ON o.id = c.organization_id
WHERE c.status BETWEEN 400 AND 499 GROUP BY 1, 2, 3, 4, 5, 6, 7;

RESET ROLE;
"""
LOG = """
CREATE TABLE request_log (  -- requests of the API: every error and a sample of the others, for 30 days
  organization_id uuid NOT NULL REFERENCES organizations, at timestamptz NOT NULL, id uuid NOT NULL,
  request_id text NOT NULL, mode text NOT NULL CHECK (mode IN ('live','test')), method text NOT NULL,
  route text NOT NULL, path text NOT NULL, status smallint NOT NULL CHECK (status BETWEEN 100 AND 599),
  error_code text, error_message text, api_key_id uuid, user_id uuid, ip text, latency_ms integer,
  message_id uuid, PRIMARY KEY (organization_id, at, id));

CREATE INDEX request_log_request ON request_log (request_id);

CREATE INDEX request_log_message ON request_log (organization_id, message_id) WHERE message_id IS NOT NULL;

CREATE INDEX request_log_at ON request_log USING brin (at);

GRANT SELECT ON request_log TO saas_tenant;

GRANT SELECT, INSERT, UPDATE, DELETE ON request_log TO saas_system;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    for statements in (TAKE_OUT, TABLE, PARTITIONS, COPY, isolate("request_counts"), LOG, isolate("request_log")):
        run(statements)


def downgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    op.execute("DROP TABLE request_log")
    for statements in (TAKE_OUT, TABLE_BEFORE, PARTITIONS, COPY_BACK, isolate("request_counts")):
        run(statements)
