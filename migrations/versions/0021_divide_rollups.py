"""Rollups by late period, divided where a plan version begins, and indexes for rare events and messages."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0021"
down_revision = "0020"

# The next roll-up fills the rollups again; until then every read is exact from the ledger.
REBUILD = """
TRUNCATE usage_rollups;

UPDATE usage_watermark SET through_xid = 0, floor_at = '-infinity';
"""
ROLLUPS = """
ALTER TABLE usage_rollups DROP CONSTRAINT usage_rollups_pkey, DROP COLUMN is_late,
  -- the closed period in which the usage happened; the nil id for usage of its own period
  ADD COLUMN late_for_period_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
  ADD COLUMN reversal_count bigint NOT NULL, ADD COLUMN first_at timestamptz NOT NULL,
  ADD COLUMN last_at timestamptz NOT NULL,
  ADD PRIMARY KEY (organization_id, billing_period_id, late_for_period_id, bucket_at, meter_code, source, api_key_id,
    dimensions);

CREATE INDEX usage_rollups_late ON usage_rollups (organization_id, late_for_period_id)
  WHERE late_for_period_id <> '00000000-0000-0000-0000-000000000000';

CREATE TABLE usage_events_ahead (  -- below the watermark and in no rollup yet, because their time is not over
  organization_id uuid NOT NULL, event_id uuid NOT NULL, occurred_at timestamptz NOT NULL,
  PRIMARY KEY (organization_id, event_id),
  FOREIGN KEY (organization_id, event_id) REFERENCES usage_events (organization_id, id));

-- The planner calls it, and so knows how few rows lie above the watermark.
CREATE FUNCTION usage_rolled_through() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
  RETURN (SELECT through_xid FROM usage_watermark);
"""
INDEXES = """
-- By meter too: one that does not add up is read from its events, which may be few among many.
CREATE INDEX usage_events_meter ON usage_events (organization_id, billing_period_id, meter_code, recorded_xid);

DROP INDEX usage_events_period;

-- What lists look for among all messages. Most messages are in the last one alone.
CREATE INDEX messages_test ON messages (organization_id, accepted_at DESC, id DESC) WHERE mode = 'test';

CREATE INDEX messages_unsent ON messages (organization_id, status, accepted_at DESC, id DESC)
  WHERE status IN ('failed','canceled');

-- A hash is cheaper at first, but each message to the same recipient makes a chain longer that the next one reads.
CREATE INDEX messages_recipient ON messages (organization_id, recipient);
"""
GRANTS = """
GRANT SELECT ON usage_events_ahead TO saas_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_events_ahead TO saas_system;
"""
DOWN = """
DROP INDEX messages_recipient, messages_unsent, messages_test;

CREATE INDEX usage_events_period ON usage_events (organization_id, billing_period_id, recorded_xid);

DROP INDEX usage_events_meter;

DROP FUNCTION usage_rolled_through();

DROP TABLE usage_events_ahead;

DROP INDEX usage_rollups_late;

ALTER TABLE usage_rollups DROP CONSTRAINT usage_rollups_pkey, DROP COLUMN late_for_period_id,
  DROP COLUMN reversal_count, DROP COLUMN first_at, DROP COLUMN last_at,
  ADD COLUMN is_late boolean NOT NULL,
  ADD PRIMARY KEY (organization_id, billing_period_id, bucket_at, meter_code, source, api_key_id, is_late, dimensions);
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    for statements in (REBUILD, ROLLUPS, INDEXES, isolate("usage_events_ahead"), GRANTS):
        run(statements)


def downgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    for statements in (REBUILD, DOWN):
        run(statements)
