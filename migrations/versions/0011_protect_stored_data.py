"""Refuse TRUNCATE where rows are kept, chain the audit log by hashes, and bind encrypted values to their rows."""

from functools import partial

import sqlalchemy as sa
from alembic import op
from flask import current_app

from migrations import encryption

revision = "0011"
down_revision = "0010"

KEPT_TABLES = (
    "plan_versions",
    "prices",
    "price_tiers",
    "entitlements",
    "subscription_segments",
    "billing_periods",
    "usage_events",
    "invoices",
    "invoice_lines",
    "credit_entries",
    "credit_notes",
    "credit_note_lines",
    "audit_events",
)

SCHEMA = """
CREATE TABLE audit_chain (  -- one row per audit event, in the order of the commits
  position bigint PRIMARY KEY, event_id bigint NOT NULL UNIQUE, hash bytea NOT NULL CHECK (octet_length(hash) = 32));

CREATE TRIGGER frozen BEFORE UPDATE OR DELETE ON audit_chain FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE TRIGGER kept_whole BEFORE TRUNCATE ON audit_chain FOR EACH STATEMENT EXECUTE FUNCTION append_only();

-- hash = SHA-256 of the previous hash and the event as JSON; accounts/audit_chain.py computes the same.
-- Runs as the owner, because neither role of the application writes the chain; a temporary table is found last.
CREATE FUNCTION chain_audit_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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

REVOKE ALL ON FUNCTION chain_audit_event() FROM PUBLIC;

-- Deferred: the lock is the last one that a transaction takes and lasts for its commit only.
CREATE CONSTRAINT TRIGGER audit_events_chained AFTER INSERT ON audit_events DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION chain_audit_event();

GRANT SELECT ON audit_chain TO saas_system;

GRANT SELECT ON alembic_version TO saas_tenant, saas_system;
"""

CHAIN_STORED_EVENTS = """
CREATE FUNCTION chain_stored_events() RETURNS void LANGUAGE plpgsql AS $$
DECLARE event audit_events; last bytea := ''; number bigint := 0;
BEGIN
  FOR event IN SELECT * FROM audit_events ORDER BY id LOOP
    number := number + 1;
    last := sha256(last || convert_to(jsonb_build_array(event.id, event.organization_id, event.actor_type,
      event.actor_id, event.on_behalf_of, event.action, event.target_type, event.target_id, event.data, event.reason,
      event.request_id, event.ip, extract(epoch FROM event.at))::text, 'UTF8'));
    INSERT INTO audit_chain VALUES (number, event.id, last);
  END LOOP;
END $$;

-- The owner has no policy of its own: it reads the rows while row-level security is not forced.
ALTER TABLE audit_events NO FORCE ROW LEVEL SECURITY;

SELECT chain_stored_events();

ALTER TABLE audit_events FORCE ROW LEVEL SECURITY;

DROP FUNCTION chain_stored_events();
"""


SELECT_WEBHOOK_SECRETS = """
SELECT 'webhook_secret' AS purpose, organization_id || ':' || id AS row_id, secret_encrypted AS value,
  organization_id, id FROM webhook_secrets
"""
SELECT_RESPONSES = """
SELECT 'idempotency' AS purpose, organization_id || ':' || key AS row_id, body AS value, organization_id, key
  FROM idempotency_keys WHERE is_encrypted
"""
# Table, its rows as migrations.encryption reads them, and the update.
ENCRYPTED = (
    (
        "webhook_secrets",
        SELECT_WEBHOOK_SECRETS,
        "UPDATE webhook_secrets SET secret_encrypted = :value WHERE organization_id = :organization_id AND id = :id",
    ),
    (
        "idempotency_keys",
        SELECT_RESPONSES,
        "UPDATE idempotency_keys SET body = :value WHERE organization_id = :organization_id AND key = :key",
    ),
)


def rewrite_encrypted_values(*, is_bound: bool) -> None:
    connection = op.get_bind()
    for table, select, update in ENCRYPTED:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        rows = connection.execute(sa.text(select)).all()
        if rows:
            secrets = current_app.config["SECRET_KEY"].split(",")
            encryption.rewrite(connection, secrets, rows, update, is_bound=is_bound)
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def upgrade() -> None:
    run = partial(op.get_bind().exec_driver_sql, execution_options={"no_parameters": True})
    for table in KEPT_TABLES:
        run(f"CREATE TRIGGER kept_whole BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION append_only()")
    run(SCHEMA)
    run(CHAIN_STORED_EVENTS)
    rewrite_encrypted_values(is_bound=True)


def downgrade() -> None:
    rewrite_encrypted_values(is_bound=False)
    for table in KEPT_TABLES:
        op.execute(f"DROP TRIGGER kept_whole ON {table}")
    op.execute("DROP TRIGGER audit_events_chained ON audit_events")
    op.execute("DROP FUNCTION chain_audit_event()")
    op.execute("DROP TABLE audit_chain")
    op.execute("REVOKE SELECT ON alembic_version FROM saas_tenant, saas_system")
