"""Events and the webhooks that carry them; idempotency keys; counters of deliveries."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0008"
down_revision = "0007"

TENANT_TABLES = (
    "events",
    "webhook_endpoints",
    "webhook_secrets",
    "webhook_deliveries",
    "webhook_attempts",
    "idempotency_keys",
)
TABLES = (
    "events",
    "webhook_endpoints",
    "webhook_secrets",
    "webhook_deliveries",
    "webhook_attempts",
    "idempotency_keys",
    "delivery_counters",
)

SCHEMA = """
CREATE TABLE idempotency_keys (
  organization_id uuid NOT NULL REFERENCES organizations, key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
  fingerprint bytea NOT NULL, status smallint NOT NULL, headers jsonb NOT NULL DEFAULT '{}',
  body bytea NOT NULL CHECK (octet_length(body) <= 65536), is_encrypted boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz NOT NULL, PRIMARY KEY (organization_id, key));

CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

CREATE TABLE delivery_counters (name text NOT NULL, labels text NOT NULL DEFAULT '', value bigint NOT NULL,
  PRIMARY KEY (name, labels));

CREATE TABLE events (  -- outbox; payload is the exact text that is signed
  organization_id uuid NOT NULL REFERENCES organizations, id uuid NOT NULL DEFAULT gen_random_uuid(),
  sequence bigint GENERATED ALWAYS AS IDENTITY, type text NOT NULL, schema_version smallint NOT NULL DEFAULT 1,
  payload text NOT NULL CHECK (octet_length(payload) <= 65536),
  subject_id uuid NOT NULL, subject_version int NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, id), UNIQUE (organization_id, type, subject_id, subject_version));

CREATE INDEX events_list ON events (organization_id, sequence DESC);

CREATE TABLE webhook_endpoints (
  organization_id uuid NOT NULL REFERENCES organizations, id uuid NOT NULL DEFAULT gen_random_uuid(), url text NOT NULL,
  description text NOT NULL DEFAULT '', event_types text[],  -- NULL = all
  status text NOT NULL DEFAULT 'enabled'
  CHECK (status IN ('enabled','disabled_manual','disabled_failing','disabled_gone')),
  payload text NOT NULL DEFAULT 'full' CHECK (payload IN ('full','thin')), in_flight_limit smallint NOT NULL DEFAULT 1,
  max_in_flight smallint NOT NULL DEFAULT 10 CHECK (max_in_flight BETWEEN 1 AND 50),
  consecutive_failures int NOT NULL DEFAULT 0,
  first_failure_at timestamptz, last_success_at timestamptz, deleted_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, id));

CREATE TABLE webhook_secrets (
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(), endpoint_id uuid NOT NULL,
  secret_encrypted bytea NOT NULL,
  expires_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (organization_id, id),
  FOREIGN KEY (organization_id, endpoint_id) REFERENCES webhook_endpoints (organization_id, id));

CREATE UNIQUE INDEX webhook_secrets_current ON webhook_secrets (organization_id, endpoint_id) WHERE expires_at IS NULL;

CREATE TABLE webhook_deliveries (
  organization_id uuid NOT NULL, id uuid NOT NULL DEFAULT gen_random_uuid(), event_id uuid NOT NULL,
  endpoint_id uuid NOT NULL,
  cause text NOT NULL DEFAULT 'auto' CHECK (cause IN ('auto','replay','test')),
  status text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued','sending','delivered','failed','canceled')),
  attempts smallint NOT NULL DEFAULT 0, interruptions smallint NOT NULL DEFAULT 0, next_at timestamptz,
  lease_token uuid,
  last_status smallint, error_code text, finished_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (organization_id, id),
  CONSTRAINT webhook_deliveries_open_is_scheduled CHECK ((status IN ('queued','sending')) = (next_at IS NOT NULL)),
  CONSTRAINT webhook_deliveries_open_is_unfinished CHECK ((status IN ('queued','sending')) = (finished_at IS NULL)),
  CONSTRAINT webhook_deliveries_leased CHECK ((status = 'sending') = (lease_token IS NOT NULL)),
  FOREIGN KEY (organization_id, event_id) REFERENCES events (organization_id, id) ON DELETE CASCADE,
  FOREIGN KEY (organization_id, endpoint_id) REFERENCES webhook_endpoints (organization_id, id));

CREATE UNIQUE INDEX webhook_deliveries_auto ON webhook_deliveries (organization_id, event_id, endpoint_id)
  WHERE cause = 'auto';

CREATE INDEX webhook_deliveries_event ON webhook_deliveries (organization_id, event_id);  -- an event's end takes them

CREATE INDEX webhook_deliveries_due ON webhook_deliveries (organization_id, endpoint_id, next_at)
  WHERE status IN ('queued','sending');

CREATE INDEX webhook_deliveries_list ON webhook_deliveries (organization_id, endpoint_id, created_at DESC);

CREATE TABLE webhook_attempts (
  organization_id uuid NOT NULL, delivery_id uuid NOT NULL, n smallint NOT NULL CHECK (n >= 1),
  started_at timestamptz NOT NULL,
  ended_at timestamptz, status_code smallint, duration_ms int, error text,
  outcome text NOT NULL CHECK (outcome IN ('started','ok','http_error','timeout','connection','blocked','interrupted')),
  response_snippet text CHECK (octet_length(response_snippet) <= 8192), PRIMARY KEY (organization_id, delivery_id, n),
  FOREIGN KEY (organization_id, delivery_id) REFERENCES webhook_deliveries (organization_id, id) ON DELETE CASCADE);
"""

GRANTS = """
GRANT SELECT, INSERT ON events, idempotency_keys TO saas_tenant;
GRANT SELECT, INSERT, UPDATE ON webhook_endpoints, webhook_secrets, webhook_deliveries, webhook_attempts TO
saas_tenant;
GRANT DELETE ON idempotency_keys TO saas_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON events, webhook_endpoints, webhook_secrets, webhook_deliveries,
webhook_attempts, idempotency_keys, delivery_counters TO saas_system;
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
