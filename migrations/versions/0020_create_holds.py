"""Holds: usage that a service reserves before it knows the quantity."""

from functools import partial

from alembic import op

from migrations.rls import isolate

revision = "0020"
down_revision = "0019"

SCHEMA = """
CREATE TABLE holds (
  organization_id uuid NOT NULL REFERENCES organizations, id uuid NOT NULL UNIQUE,  -- a service knows the id alone
  -- of the key; holds of test keys count against no limit
  mode text NOT NULL DEFAULT 'live' CHECK (mode IN ('live','test')),
  source text NOT NULL, idempotency_key text NOT NULL CHECK (length(idempotency_key) BETWEEN 1 AND 255),
  meter_code text NOT NULL REFERENCES meters, quantity numeric(20,6) NOT NULL CHECK (quantity > 0),
  properties jsonb NOT NULL DEFAULT '{}', endpoint text CHECK (length(endpoint) BETWEEN 1 AND 255), api_key_id uuid,
  status text NOT NULL DEFAULT 'open' CHECK (status IN ('open','settled','released','expired')),
  created_at timestamptz NOT NULL, expires_at timestamptz NOT NULL CHECK (expires_at > created_at),
  ended_at timestamptz, ended_by bytea CHECK (length(ended_by) = 32),  -- digest of the request that ended it
  usage_event_id uuid,  -- in usage_events, or in test_usage_events for a test key
  settled_quantity numeric(20,6) CHECK (settled_quantity > 0),
  PRIMARY KEY (organization_id, id), UNIQUE (organization_id, source, idempotency_key),
  FOREIGN KEY (organization_id, api_key_id) REFERENCES api_keys (organization_id, id),
  CHECK ((status = 'open') = (ended_at IS NULL)),
  CHECK ((status = 'settled') = (usage_event_id IS NOT NULL)),
  CHECK ((status = 'settled') = (settled_quantity IS NOT NULL)));

CREATE INDEX holds_by_end ON holds (organization_id, ended_at);  -- NULL: open

CREATE INDEX holds_due ON holds (expires_at) WHERE status = 'open';
"""

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON holds TO saas_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON holds TO saas_system;
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    for statements in (SCHEMA, isolate("holds"), GRANTS):
        run(statements)


def downgrade() -> None:
    op.execute("DROP TABLE holds")
