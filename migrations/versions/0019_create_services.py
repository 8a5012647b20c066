"""Services with their tokens, routes, statistics and OpenAPI documents, and the generation of the catalogue."""

from functools import partial

from alembic import op

revision = "0019"
down_revision = "0018"

SCHEMA = """
CREATE TABLE services (  -- programs that serve metered calls, outside this application
  id uuid PRIMARY KEY, name text NOT NULL UNIQUE CHECK (name ~ '^[a-z][a-z0-9_-]{0,39}$'),
  allowed_ips cidr[] NOT NULL DEFAULT '{}',  -- empty allows all
  scopes text[] NOT NULL DEFAULT '{}',  -- that its calls may require of an API key
  is_open boolean NOT NULL DEFAULT false,  -- forward authentication admits what no route matches
  openapi jsonb, last_seen_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(), revoked_at timestamptz);

CREATE TABLE service_tokens (  -- one secret of a service; at most two are active at once
  id uuid PRIMARY KEY, service_id uuid NOT NULL REFERENCES services, slot smallint NOT NULL CHECK (slot IN (1, 2)),
  digest bytea NOT NULL UNIQUE CHECK (length(digest) = 32), pepper_version smallint NOT NULL, hint text NOT NULL,
  expires_at timestamptz, revoked_at timestamptz, created_at timestamptz NOT NULL DEFAULT now());

CREATE UNIQUE INDEX service_tokens_slot ON service_tokens (service_id, slot) WHERE revoked_at IS NULL;

CREATE TABLE service_routes (  -- of forward authentication; the first match counts
  service_id uuid NOT NULL REFERENCES services, ordinal smallint NOT NULL CHECK (ordinal >= 1),
  method text NOT NULL,  -- '*' for all
  pattern text NOT NULL, permission text, meter_code text REFERENCES meters, quantity numeric(20,6),
  quantity_header text, PRIMARY KEY (service_id, ordinal),
  CHECK (meter_code IS NOT NULL OR (quantity IS NULL AND quantity_header IS NULL)));

CREATE TABLE service_calls (  -- calls of services by hour; statistics, not money
  service_id uuid NOT NULL REFERENCES services, bucket_at timestamptz NOT NULL,
  operation text NOT NULL, code text NOT NULL, calls bigint NOT NULL CHECK (calls > 0),
  total_us bigint NOT NULL, max_us bigint NOT NULL, PRIMARY KEY (service_id, bucket_at, operation, code));

CREATE TABLE catalogue_generation (  -- one row; rises with every change of services, tokens, routes and meters
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), generation bigint NOT NULL);

INSERT INTO catalogue_generation VALUES (true, 1);
"""

GRANTS = """
GRANT SELECT (id, name, scopes, openapi, revoked_at) ON services TO saas_tenant;
GRANT SELECT (service_id, permission) ON service_routes TO saas_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON services, service_tokens, service_routes, service_calls TO saas_system;
GRANT SELECT, UPDATE ON catalogue_generation TO saas_system;
"""

TABLES = ("catalogue_generation", "service_calls", "service_routes", "service_tokens", "services")


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    run(SCHEMA)
    run(GRANTS)


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"DROP TABLE {table}")
