"""Divide the counts of refused calls into partitions by month."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0025"
down_revision = "0024"

TABLE = """
ALTER TABLE request_counts RENAME TO request_counts_before;

ALTER TABLE request_counts_before RENAME CONSTRAINT request_counts_pkey TO request_counts_before_pkey;

CREATE TABLE request_counts (  -- refused calls under a key, by local hour; statistics, not money
  organization_id uuid NOT NULL CONSTRAINT request_counts_organization_id_fkey REFERENCES organizations,
  bucket_at timestamptz NOT NULL, api_key_id uuid NOT NULL, route text NOT NULL, method text NOT NULL,
  mode text NOT NULL CONSTRAINT request_counts_mode_check CHECK (mode IN ('live','test')),
  outcome text NOT NULL CONSTRAINT request_counts_outcome_check CHECK (outcome IN ('failed','rate_limited')),
  requests bigint NOT NULL CONSTRAINT request_counts_requests_check CHECK (requests > 0),
  PRIMARY KEY (organization_id, bucket_at, api_key_id, route, method, mode, outcome)){by_month};

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

INSERT INTO request_counts SELECT * FROM request_counts_before;

RESET ROLE;

DROP TABLE request_counts_before;
"""
CHECK_ARCHIVES = """
DO $$ BEGIN
  IF EXISTS (SELECT FROM archived_partitions WHERE table_name = 'request_counts') THEN
    RAISE EXCEPTION 'partitions are archived: restore them before the downgrade';
  END IF;
END $$;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    for statements in (TABLE.format(by_month=" PARTITION BY RANGE (bucket_at)"), PARTITIONS, COPY):
        run(statements)
    run(isolate("request_counts"))


def downgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    for statements in (CHECK_ARCHIVES, TABLE.format(by_month=""), COPY):
        run(statements)
    run(isolate("request_counts"))
