"""Messages, which are their own queue, and the ledger of usage."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0003"
down_revision = "0002"

TENANT_TABLES = ("messages", "usage_events", "usage_rollups", "request_counts")
TABLES = ("messages", "mock_sends", "usage_events", "usage_rollups", "usage_watermark", "request_counts")

SCHEMA = """
CREATE TABLE messages (  -- PostgreSQL is the queue: next_at is schedule and lease expiry
  organization_id uuid NOT NULL REFERENCES organizations, id uuid NOT NULL DEFAULT gen_random_uuid(), api_key_id uuid,
  mode text NOT NULL DEFAULT 'live' CHECK (mode IN ('live','test')),
  channel text NOT NULL CHECK (channel IN ('sms','email')),
  recipient text NOT NULL, subject text, body text NOT NULL, segments smallint NOT NULL DEFAULT 1 CHECK (segments >= 1),
  cost numeric(20,10),  -- units x list price at acceptance, major; for display only
  status text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued','sending','sent','delivered','failed','canceled')),
  attempts smallint NOT NULL DEFAULT 0, interruptions smallint NOT NULL DEFAULT 0, next_at timestamptz,
  lease_token uuid,
  error_code text, provider_reference text, accepted_at timestamptz NOT NULL, expires_at timestamptz,
  sent_at timestamptz,
  finished_at timestamptz, PRIMARY KEY (organization_id, id),
  FOREIGN KEY (organization_id, api_key_id) REFERENCES api_keys (organization_id, id),
  CONSTRAINT messages_open_is_scheduled CHECK ((status IN ('queued','sending')) = (next_at IS NOT NULL)),
  CONSTRAINT messages_open_is_unfinished CHECK ((status IN ('queued','sending')) = (finished_at IS NULL)),
  CONSTRAINT messages_leased CHECK ((status = 'sending') = (lease_token IS NOT NULL)));

CREATE INDEX messages_list ON messages (organization_id, accepted_at DESC, id DESC);

CREATE INDEX messages_due ON messages (organization_id, next_at) WHERE status IN ('queued','sending');

CREATE TABLE mock_sends (  -- stands for the outside party: own connection, own commit
  message_id uuid PRIMARY KEY, channel text NOT NULL, recipient text NOT NULL, outcome text NOT NULL,
  calls int NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT now());

CREATE TABLE usage_events (  -- the ledger: bills are computed from this and nothing else
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(),
  source text NOT NULL, idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
  meter_code text NOT NULL REFERENCES meters, quantity numeric(20,6) NOT NULL CHECK (quantity <> 0),
  occurred_at timestamptz NOT NULL, recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  recorded_xid bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,  -- settled once below every snapshot's xmin
  api_key_id uuid, message_id uuid, properties jsonb NOT NULL DEFAULT '{}',
  billing_period_id uuid NOT NULL,  -- the ONE period that pays
  late_for_period_id uuid,  -- the closed period that occurred_at lies in
  reversal_of uuid, PRIMARY KEY (organization_id, id),
  UNIQUE (organization_id, source, idempotency_key),  -- for ever, not a TTL
  CONSTRAINT usage_events_negative_is_reversal CHECK (quantity > 0 OR reversal_of IS NOT NULL),
  CHECK (late_for_period_id <> billing_period_id),
  FOREIGN KEY (organization_id, billing_period_id) REFERENCES billing_periods (organization_id, id),
  FOREIGN KEY (organization_id, late_for_period_id) REFERENCES billing_periods (organization_id, id),
  FOREIGN KEY (organization_id, reversal_of) REFERENCES usage_events (organization_id, id));

CREATE INDEX usage_events_period ON usage_events (organization_id, billing_period_id, recorded_xid);

-- rating and tail
CREATE INDEX usage_events_late ON usage_events (organization_id, late_for_period_id)
  WHERE late_for_period_id IS NOT NULL;

CREATE UNIQUE INDEX usage_events_one_reversal ON usage_events (organization_id, reversal_of)
  WHERE reversal_of IS NOT NULL;

CREATE INDEX usage_events_settled ON usage_events USING brin (recorded_xid) WITH (pages_per_range = 16,
  autosummarize = on);

CREATE TRIGGER frozen BEFORE UPDATE OR DELETE ON usage_events FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE TABLE usage_rollups (  -- cache by local hour; rebuildable; never billed from
  organization_id uuid NOT NULL, billing_period_id uuid NOT NULL, bucket_at timestamptz NOT NULL,
  meter_code text NOT NULL,
  source text NOT NULL, api_key_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
  is_late boolean NOT NULL,
  quantity numeric(24,6) NOT NULL, event_count bigint NOT NULL,  -- reversals count 0 events
  PRIMARY KEY (organization_id, billing_period_id, bucket_at, meter_code, source, api_key_id, is_late),
  FOREIGN KEY (organization_id, billing_period_id) REFERENCES billing_periods (organization_id, id));

CREATE INDEX usage_rollups_time ON usage_rollups (organization_id, bucket_at);

CREATE TABLE usage_watermark (  -- one row; read in the same statement as the rollups
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), through_xid bigint NOT NULL,
  floor_at timestamptz NOT NULL, system_identifier bigint NOT NULL, rolled_at timestamptz NOT NULL);

INSERT INTO usage_watermark SELECT true, 0, '-infinity', system_identifier, now() FROM pg_control_system();

CREATE TABLE request_counts (  -- refused calls under a key, by local hour; statistics, not money
  organization_id uuid NOT NULL REFERENCES organizations, bucket_at timestamptz NOT NULL, api_key_id uuid NOT NULL,
  route text NOT NULL, method text NOT NULL, mode text NOT NULL CHECK (mode IN ('live','test')),
  outcome text NOT NULL CHECK (outcome IN ('failed','rate_limited')), requests bigint NOT NULL CHECK (requests > 0),
  PRIMARY KEY (organization_id, bucket_at, api_key_id, route, method, mode, outcome));
"""

GRANTS = """
GRANT SELECT ON usage_rollups, usage_watermark, request_counts TO saas_tenant;
GRANT SELECT, INSERT ON usage_events TO saas_tenant;
GRANT SELECT, INSERT, UPDATE ON messages TO saas_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON messages, mock_sends, usage_events, usage_rollups, usage_watermark,
request_counts TO saas_system;
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
