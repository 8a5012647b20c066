"""Provider events become an outbox table, and indexes find the few rows that each claim looks for."""

from functools import partial

from alembic import op

revision = "0010"
down_revision = "0009"

INBOX = """
DROP INDEX provider_events_due;

ALTER TABLE provider_events DROP CONSTRAINT provider_events_state_check, DROP CONSTRAINT provider_events_check;

ALTER TABLE provider_events RENAME COLUMN state TO status;

ALTER TABLE provider_events RENAME COLUMN error TO error_code;

ALTER TABLE provider_events RENAME COLUMN processed_at TO finished_at;

UPDATE provider_events SET status = CASE status WHEN 'received' THEN 'queued' ELSE status END,
  finished_at = CASE WHEN status <> 'received' THEN coalesce(finished_at, received_at) END;

ALTER TABLE provider_events ALTER COLUMN status SET DEFAULT 'queued',
  ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,
  ADD COLUMN interruptions smallint NOT NULL DEFAULT 0,
  ADD COLUMN lease_token uuid,
  ADD CHECK (status IN ('queued','sending','processed','ignored','quarantined')),
  ADD CONSTRAINT provider_events_open_is_scheduled
    CHECK ((status IN ('queued','sending')) = (next_at IS NOT NULL)),
  ADD CONSTRAINT provider_events_open_is_unfinished
    CHECK ((status IN ('queued','sending')) = (finished_at IS NULL)),
  ADD CONSTRAINT provider_events_leased CHECK ((status = 'sending') = (lease_token IS NOT NULL));

CREATE INDEX provider_events_due ON provider_events (provider, next_at) WHERE status IN ('queued','sending');
"""
# A claim looks for interrupted rows first; without these indexes it would read the backlog or the table.
INDEXES = """
DROP INDEX mails_due;

CREATE INDEX mails_due ON mails (organization_id, next_at) WHERE status IN ('queued','sending');

CREATE INDEX messages_interrupted ON messages (organization_id, next_at)
  WHERE status IN ('queued','sending') AND interruptions >= 3;

CREATE INDEX mails_interrupted ON mails (organization_id, next_at)
  WHERE status IN ('queued','sending') AND interruptions >= 3;

CREATE INDEX webhook_deliveries_interrupted ON webhook_deliveries (organization_id, endpoint_id, next_at)
  WHERE status IN ('queued','sending') AND interruptions >= 3;

CREATE INDEX provider_events_interrupted ON provider_events (provider, next_at)
  WHERE status IN ('queued','sending') AND interruptions >= 3;

-- An endpoint's deliveries in flight, which bound the next claim; others wait for a retry in thousands.
CREATE INDEX webhook_deliveries_in_flight ON webhook_deliveries (organization_id, endpoint_id, next_at)
  WHERE status = 'sending';
"""
DOWN = """
DROP INDEX webhook_deliveries_in_flight, webhook_deliveries_interrupted, mails_interrupted, messages_interrupted,
  mails_due, provider_events_interrupted, provider_events_due;

CREATE INDEX mails_due ON mails (next_at) WHERE status IN ('queued','sending');

ALTER TABLE provider_events DROP CONSTRAINT provider_events_status_check,
  DROP CONSTRAINT provider_events_open_is_scheduled, DROP CONSTRAINT provider_events_open_is_unfinished,
  DROP CONSTRAINT provider_events_leased, DROP COLUMN id, DROP COLUMN interruptions, DROP COLUMN lease_token;

ALTER TABLE provider_events RENAME COLUMN status TO state;

ALTER TABLE provider_events RENAME COLUMN error_code TO error;

ALTER TABLE provider_events RENAME COLUMN finished_at TO processed_at;

UPDATE provider_events SET state = 'received' WHERE state IN ('queued','sending');

ALTER TABLE provider_events ALTER COLUMN state SET DEFAULT 'received',
  ADD CHECK (state IN ('received','processed','ignored','quarantined')),
  ADD CHECK ((state = 'received') = (next_at IS NOT NULL));

CREATE INDEX provider_events_due ON provider_events (next_at) WHERE state = 'received';
"""


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    run(INBOX)
    run(INDEXES)


def downgrade() -> None:
    op.get_bind().exec_driver_sql(DOWN, execution_options={"no_parameters": True})
