"""The schema as PostgreSQL holds it: every tenant table isolated, models and migrations alike, and a way back."""

import contextlib
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2.errors
import pytest
import sqlalchemy as sa
from flask import Flask
from flask_migrate import Migrate, downgrade, upgrade
from sqlalchemy.dialects import postgresql

from saas_api.core.db.engine import db
from tests.architecture.source import PACKAGE

A, B, X = (f"00000000-0000-7000-8000-00000000000{digit}" for digit in "abc")
# Tables without a model: the core and the mock providers use SQL.
WITHOUT_MODEL = {
    "absent_organizations",
    "alembic_version",
    "archived_partitions",
    "audit_chain",
    "delivery_counters",
    "external_ids",
    "idempotency_keys",
    "incident_updates",
    "incidents",
    "job_runs",
    "mails",
    "mock_checkouts",
    "mock_sends",
    "mock_setups",
    "moved_numbers",
    "organization_cells",
    "status_days",
}
# One row of organization A in each table; {org} is its id, {x} any other id.
ROWS = {
    "organizations": "(id, name, slug) VALUES ('{org}', 'n', 's')",
    "organization_limits": "(organization_id, reason) VALUES ('{org}', 'r')",
    "tenancy_canary": "(organization_id) VALUES ('{org}')",
    "memberships": "(organization_id, user_id, role) VALUES ('{org}', '{x}', 'owner')",
    "api_keys": "(organization_id, name) VALUES ('{org}', 'n')",
    "api_key_secrets": "(organization_id, key_id, slot, digest, pepper_version, hint, last_four)"
    " VALUES ('{org}', '{x}', 1, sha256('x'), 1, 'h', 'four')",
    "invitations": "(organization_id, email, role, digest, invited_by, expires_at)"
    " VALUES ('{org}', 'e', 'member', sha256('x'), '{x}', now())",
    "audit_events": "(organization_id, actor_type, action, target_type, target_id, at)"
    " VALUES ('{org}', 'system', 'a', 't', 'i', now())",
    "mails": "(organization_id, template, recipient, next_at) VALUES ('{org}', 't', 'r', now())",
    "billing_profiles": "(organization_id) VALUES ('{org}')",
    "billing_pauses": "(organization_id, starts_at) VALUES ('{org}', now())",
    "subscriptions": "(organization_id, started_at) VALUES ('{org}', now())",
    "subscription_segments": "(organization_id, subscription_id, seq, plan_version_id, starts_at)"
    " VALUES ('{org}', '{x}', 1, 'free@1', now())",
    "billing_periods": "(organization_id, subscription_id, seq, starts_at, ends_at, nominal_seconds, timezone, month)"
    " VALUES ('{org}', '{x}', 1, now(), now() + interval '1 month', 2592000, 'UTC', now())",
    "messages": "(organization_id, channel, recipient, body, accepted_at, next_at)"
    " VALUES ('{org}', 'sms', 'r', 'b', now(), now())",
    "past_messages": "(organization_id, channel, recipient, body, accepted_at, status, finished_at)"
    " VALUES ('{org}', 'sms', 'r', 'b', now(), 'sent', now())",
    "usage_events": "(organization_id, source, idempotency_key, meter_code, quantity, occurred_at, billing_period_id,"
    " month) VALUES ('{org}', 's', 'k', 'sms', 1, now(), '{x}', now())",
    "usage_event_keys": "(organization_id, source, idempotency_key, event_id, month, quantity)"
    " VALUES ('{org}', 's', 'k', '{x}', now(), 1)",
    "test_usage_events": "(organization_id, id, source, idempotency_key, meter_code, quantity, occurred_at)"
    " VALUES ('{org}', '{x}', 's', 'k', 'sms', 1, now())",
    "holds": "(organization_id, id, mode, source, idempotency_key, meter_code, quantity, created_at, expires_at)"
    " VALUES ('{org}', '{x}', 'live', 's', 'k', 'sms', 1, now(), now() + interval '1 hour')",
    "usage_rollups": "(organization_id, billing_period_id, bucket_at, meter_code, source, quantity, event_count,"
    " reversal_count, first_at, last_at) VALUES ('{org}', '{x}', now(), 'sms', 's', 1, 1, 0, now(), now())",
    "usage_events_ahead": "(organization_id, event_id, month, occurred_at) VALUES ('{org}', '{x}', now(), now())",
    "request_counts": "(organization_id, bucket_at, api_key_id, route, method, mode, status, is_hour, requests)"
    " VALUES ('{org}', now(), '{x}', 'r', 'GET', 'live', 422, false, 1)",
    "request_log": "(organization_id, at, id, request_id, mode, method, route, path, status)"
    " VALUES ('{org}', now(), '{x}', 'req', 'live', 'GET', 'r', 'r', 422)",
    "portal_sessions": "(organization_id, id, operator_id, scopes, link_digest, link_expires_at, created_at)"
    " VALUES ('{org}', '{x}', '{x}', '{{keys:read}}', sha256('x'), now(), now())",
    "invoices": "(organization_id, kind, currency, rule_version) VALUES ('{org}', 'manual', 'USD', 1)",
    "invoice_lines": "(organization_id, invoice_id, position, source_key, kind, description, amount_minor)"
    " VALUES ('{org}', '{x}', 1, 'k', 'manual', 'd', 1)",
    "credit_grants": "(organization_id, source_key, kind, currency, amount_minor, remaining_minor, effective_at)"
    " VALUES ('{org}', 'k', 'carry', 'USD', 1, 1, now())",
    "credit_notes": "(organization_id, invoice_id, series, serial, number, currency, reason, total_minor, to_due_minor,"
    " issued_at) VALUES ('{org}', '{x}', 'CN', 1, 'CN-1', 'USD', 'goodwill', 1, 1, now())",
    "credit_note_lines": "(organization_id, credit_note_id, invoice_line_id, amount_minor)"
    " VALUES ('{org}', '{x}', '{x}', 1)",
    "alert_rules": "(organization_id, subject, threshold) VALUES ('{org}', 'spend', 1)",
    "alert_firings": "(organization_id, rule_id, billing_period_id, observed, fired_at)"
    " VALUES ('{org}', '{x}', '{x}', 1, now())",
    "payments": "(organization_id, invoice_id, provider, initiated_by, currency, amount_minor)"
    " VALUES ('{org}', '{x}', 'mock', 'customer', 'USD', 1)",
    "payment_methods": "(organization_id, id, provider, created_at) VALUES ('{org}', '{x}', 'mock', now())",
    "refunds": "(organization_id, payment_id, credit_note_id, amount_minor) VALUES ('{org}', '{x}', '{x}', 1)",
    "dunning_runs": "(organization_id, invoice_id, policy, started_at) VALUES ('{org}', '{x}', '{{}}', now())",
    "dunning_steps": "(organization_id, run_id, ordinal, day, run_at, action)"
    " VALUES ('{org}', '{x}', 1, 0, now(), 'remind')",
    "events": "(organization_id, type, payload, subject_id, subject_version) VALUES ('{org}', 't', 'p', '{x}', 1)",
    "webhook_endpoints": "(organization_id, url) VALUES ('{org}', 'u')",
    "webhook_secrets": "(organization_id, endpoint_id, secret_encrypted) VALUES ('{org}', '{x}', 's')",
    "webhook_deliveries": "(organization_id, event_id, endpoint_id, next_at) VALUES ('{org}', '{x}', '{x}', now())",
    "webhook_attempts": "(organization_id, delivery_id, n, started_at, outcome)"
    " VALUES ('{org}', '{x}', 1, now(), 'started')",
    "idempotency_keys": "(organization_id, key, fingerprint, status, body, expires_at)"
    " VALUES ('{org}', 'k', 'f', 200, 'b', now())",
    "credit_entries": "(organization_id, grant_id, invoice_id, delta_minor, reason, at)"
    " VALUES ('{org}', '{x}', '{x}', -1, 'apply', now())",
}
TENANT_TABLES = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND (c.relname = 'organizations' OR EXISTS (
     SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'organization_id' AND NOT a.attisdropped))
"""
PARTITIONS = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1"
UNFORCED = """
SELECT relname FROM pg_class WHERE relname = ANY(%s) AND NOT (relrowsecurity AND relforcerowsecurity)
"""
POLICIES = """
SELECT tablename, policyname, roles::text[], qual IS NOT NULL AND with_check IS NOT NULL AND cmd = 'ALL'
  FROM pg_policies WHERE tablename = ANY(%s)
"""
LOOSE_KEYS = """
SELECT f.conrelid::regclass::text, f.conname FROM pg_constraint f
 WHERE f.contype = 'f' AND f.conrelid::regclass::text = ANY(%(tables)s)
   AND f.confrelid::regclass::text = ANY(%(tables)s)
   AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = f.conrelid AND a.attnum = ANY(f.conkey)
                      AND a.attname = 'organization_id')
"""
FREE_GRANTS = """
SELECT DISTINCT table_name FROM information_schema.role_table_grants
 WHERE grantee = 'saas_tenant' AND table_schema = 'public' AND NOT table_name = ANY(%s) AND privilege_type <> 'SELECT'
"""


@pytest.fixture
def cursor(superuser: Any) -> Iterator[Any]:
    with superuser.cursor() as cursor:
        yield cursor
    superuser.rollback()


@pytest.fixture
def isolated(cursor: Any) -> list[str]:
    cursor.execute(TENANT_TABLES)
    return sorted(name for (name,) in cursor.fetchall())


def test_tenant_tables_force_row_level_security(cursor: Any, isolated: list[str]) -> None:
    cursor.execute(UNFORCED, (isolated,))
    assert cursor.fetchall() == []
    cursor.execute(POLICIES, (isolated,))
    expected = {(table, f"{role}", (f"saas_{role}",), True) for table in isolated for role in ("tenant", "system")}
    # the owner, who runs the functions that move events to another month and delete expired ones
    expected.add(("audit_events", "changed", ("saas",), False))
    assert {(table, name, tuple(roles), whole) for table, name, roles, whole in cursor.fetchall()} == expected


def test_partitions_are_closed_to_tenants(cursor: Any) -> None:
    cursor.execute(PARTITIONS)
    partitions = [name for (name,) in cursor.fetchall()]
    assert partitions
    cursor.execute(UNFORCED, (partitions,))
    assert cursor.fetchall() == []
    bind(cursor, A)
    for partition in partitions:
        cursor.execute("SAVEPOINT before")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(f"SELECT FROM {partition}")
        cursor.execute("ROLLBACK TO before")


def test_foreign_keys_between_tenant_tables_carry_the_organization(cursor: Any, isolated: list[str]) -> None:
    cursor.execute(LOOSE_KEYS, {"tables": isolated})
    assert cursor.fetchall() == []


def test_tenant_cannot_write_shared_tables(cursor: Any, isolated: list[str]) -> None:
    cursor.execute(FREE_GRANTS, (isolated,))
    assert cursor.fetchall() == []


def test_every_tenant_table_has_a_row_in_this_test(isolated: list[str]) -> None:
    assert sorted(ROWS) == isolated


@pytest.mark.parametrize("table", ROWS)
def test_tenant_never_reaches_rows_of_another_tenant(cursor: Any, table: str) -> None:
    insert = f"INSERT INTO {table} {ROWS[table].format(org=A, x=X)}"
    column = "id" if table == "organizations" else "organization_id"
    cursor.execute("SET LOCAL session_replication_role = replica")
    cursor.execute(insert)
    cursor.execute(f"GRANT ALL ON {table} TO saas_tenant")
    bind(cursor, A)
    cursor.execute(f"SELECT {column}::text FROM {table}")
    assert cursor.fetchall() == [(A,)]
    bind(cursor, B)
    for statement in (
        f"SELECT {column} FROM {table}",
        f"UPDATE {table} SET {column} = {column}",
        f"DELETE FROM {table}",
    ):
        cursor.execute(statement)
        assert cursor.rowcount == 0, statement
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="row-level security"):
        cursor.execute(insert)


def bind(cursor: Any, organization: str) -> None:
    cursor.execute(
        "SELECT set_config('role', 'saas_tenant', true), set_config('app.organization_id', %s, true)", (organization,)
    )


def test_models_equal_migrations(app: Flask) -> None:
    for path in (*PACKAGE.glob("*/models.py"), *PACKAGE.glob("*/models/")):
        importlib.import_module(f"saas_api.{path.parent.name}.models")
    with app.app_context():
        inspector = sa.inspect(db.engine)
        with db.engine.connect() as connection:
            partitions = set(connection.exec_driver_sql(PARTITIONS).scalars())
        tables = set(inspector.get_table_names()) - partitions - WITHOUT_MODEL
        migrated = {table: columns(inspector.get_columns(table)) for table in tables}
    modelled = {
        name: columns([{"name": c.name, "type": c.type, "nullable": c.nullable} for c in table.columns])
        for name, table in db.metadata.tables.items()
    }
    assert modelled == migrated


def columns(described: Any) -> dict[str, tuple[str, bool]]:
    """Type and nullability by name, as PostgreSQL writes them."""
    dialect = postgresql.dialect()
    return {column["name"]: (column["type"].compile(dialect), column["nullable"]) for column in described}


def test_migrations_downgrade_and_upgrade_again(config: dict[str, Any], superuser: Any) -> None:
    held = []
    with empty_database(config, superuser) as (app, engine), app.app_context():
        for step in (upgrade, lambda: downgrade(revision="base"), upgrade):
            step()
            with engine.connect() as connection:
                held.append({(kind, name) for kind, name in connection.execute(sa.text(HELD))})
    first, emptied, again = held
    assert emptied == {("r", "alembic_version"), ("i", "alembic_version_pkc")}
    assert again == first


EVENTS_OF_0009 = """
INSERT INTO provider_events (provider, event_id, event_type, body, state, attempts, next_at, error, received_at,
  processed_at) VALUES
  ('mock', 'a', 'e', 'b', 'received', 2, '2026-05-01', 'not asked: away', '2026-04-01', NULL),
  ('mock', 'b', 'e', 'b', 'processed', 1, NULL, NULL, '2026-04-01', '2026-04-02'),
  ('mock', 'c', 'e', 'b', 'quarantined', 8, NULL, 'unknown_reference', '2026-04-01', '2026-04-03')"""
READ_EVENTS = """
SELECT event_id, status, attempts, next_at::date::text, error_code, finished_at::date::text FROM provider_events
ORDER BY event_id"""


def test_provider_events_of_the_version_before_keep_their_progress(config: dict[str, Any], superuser: Any) -> None:
    with empty_database(config, superuser) as (app, engine), app.app_context():
        upgrade(revision="0009")
        with engine.begin() as connection:
            connection.exec_driver_sql(EVENTS_OF_0009)
        upgrade(revision="0010")
        with engine.begin() as connection:
            rows = [tuple(row) for row in connection.exec_driver_sql(READ_EVENTS)]
            connection.exec_driver_sql(
                "UPDATE provider_events SET status = 'sending', lease_token = id WHERE event_id = 'a'"
            )
        assert rows == [
            ("a", "queued", 2, "2026-05-01", "not asked: away", None),
            ("b", "processed", 1, None, None, "2026-04-02"),
            ("c", "quarantined", 8, None, "unknown_reference", "2026-04-03"),
        ]
        downgrade(revision="0009")
        with engine.begin() as connection:
            states = connection.exec_driver_sql("SELECT state FROM provider_events ORDER BY event_id").scalars().all()
        assert states == ["received", "processed", "quarantined"]


ROLLUP_OF_0020 = """
INSERT INTO usage_rollups (organization_id, billing_period_id, bucket_at, meter_code, source, is_late, quantity,
  event_count) VALUES (gen_random_uuid(), gen_random_uuid(), now(), 'sms', 's', false, 1, 1)"""


def test_rollups_are_emptied_for_the_next_roll_up_to_rebuild(config: dict[str, Any], superuser: Any) -> None:
    with empty_database(config, superuser) as (app, _), app.app_context():
        upgrade(revision="0020")
        with contextlib.closing(psycopg2.connect(superuser.dsn, dbname="there_and_back")) as connection:
            with connection, connection.cursor() as cursor:
                cursor.execute("SET LOCAL session_replication_role = replica")
                cursor.execute(ROLLUP_OF_0020)
                cursor.execute("UPDATE usage_watermark SET through_xid = 900, floor_at = now()")
            for step in (lambda: upgrade(revision="0021"), lambda: downgrade(revision="0020")):
                step()
                with connection, connection.cursor() as cursor:
                    cursor.execute("""SELECT (SELECT count(*) FROM usage_rollups), through_xid, floor_at::text
                      FROM usage_watermark""")
                    assert cursor.fetchall() == [(0, 0, "-infinity")]


LEDGER_OF_0023 = """
SET LOCAL session_replication_role = replica;
INSERT INTO organizations (id, name, slug) VALUES ('{org}', 'n', 's');
INSERT INTO billing_periods (organization_id, id, subscription_id, seq, starts_at, ends_at, nominal_seconds, timezone)
SELECT '{org}', gen_random_uuid(), '{x}', n, '2026-01-15 12:00Z'::timestamptz + n * interval '1 month',
  '2026-02-15 12:00Z'::timestamptz + n * interval '1 month', 2592000, 'UTC' FROM generate_series(1, 3) n;
INSERT INTO usage_events (organization_id, source, idempotency_key, meter_code, quantity, occurred_at,
  billing_period_id, properties) SELECT organization_id, 's', 'k' || seq, 'sms', seq, starts_at, id, '{{"a": "b"}}'
FROM billing_periods;
INSERT INTO usage_events (organization_id, source, idempotency_key, meter_code, quantity, occurred_at,
  billing_period_id, late_for_period_id, reversal_of)
SELECT e.organization_id, 'reversal', e.id::text, 'sms', -1, e.occurred_at, p.id, e.billing_period_id, e.id
FROM usage_events e, billing_periods p WHERE e.quantity = 1 AND p.seq = 3;
INSERT INTO request_counts
SELECT organization_id, starts_at, id, 'r', 'GET', 'live', 'failed', seq FROM billing_periods;
INSERT INTO usage_events_ahead SELECT organization_id, id, occurred_at FROM usage_events WHERE quantity = 3;
SET LOCAL session_replication_role = origin"""
LEDGER = """SELECT organization_id, id, source, idempotency_key, meter_code, quantity, occurred_at, recorded_at,
  recorded_xid, properties, billing_period_id, late_for_period_id, reversal_of FROM usage_events ORDER BY id"""


COUNTS = "SELECT * FROM request_counts ORDER BY bucket_at"
EVENTS = """SELECT c.position, encode(c.hash, 'hex'), e.id, organization_id, data, ip, at
  FROM audit_events e JOIN audit_chain c ON c.event_id = e.id ORDER BY c.position"""
AUDIT_EVENT = """INSERT INTO audit_events (organization_id, actor_type, action, target_type, target_id, at)
  VALUES (%s, 'system', 'made.up', 'job', 'x', now())"""


def test_tables_of_several_months_are_divided_and_put_together_again(config: dict[str, Any], superuser: Any) -> None:
    with empty_database(config, superuser) as (app, _), app.app_context():
        upgrade(revision="0023")
        with contextlib.closing(psycopg2.connect(superuser.dsn, dbname="there_and_back")) as connection:
            cursor = connection.cursor()
            with connection:
                cursor.execute(LEDGER_OF_0023.format(org=A, x=X))
            with connection:
                cursor.executemany(AUDIT_EVENT, [(A,), (None,)])
            before, counts = read(connection, LEDGER), read(connection, COUNTS)
            events = read(connection, EVENTS)
            upgrade(revision="0028")
            assert (read(connection, LEDGER), read(connection, COUNTS)) == (before, counts)
            check_partitions(connection, len(counts))
            check_past_messages(connection)
            downgrade(revision="0030")
            assert len(events) == 2
            assert read(connection, EVENTS) == events
            with connection:
                cursor.execute(AUDIT_EVENT, (A,))
            events = read(connection, EVENTS)
            sums = "SELECT status, is_hour, requests, latency FROM request_counts ORDER BY bucket_at"
            assert read(connection, sums) == [(400, True, n, []) for n in (1, 2, 3)]
            check_events_of_test_mode(connection)
            downgrade(revision="0025")
            assert read(connection, COUNTS) == counts
            with connection:
                cursor.execute("INSERT INTO archived_partitions VALUES ('usage_events', '2026-01-01', 1, '')")
            with pytest.raises(sa.exc.DBAPIError, match="partitions are archived"):
                downgrade(revision="0023")
            with connection:
                cursor.execute("DELETE FROM archived_partitions")
            downgrade(revision="0023")
            assert (read(connection, LEDGER), read(connection, COUNTS)) == (before, counts)
            assert read(connection, EVENTS) == events
            with connection:
                cursor.execute(AUDIT_EVENT, (A,))
            assert len(read(connection, EVENTS)) == 4


def check_events_of_test_mode(connection: Any) -> None:
    """They are deleted by 0033, not under the lock of 0032."""
    with connection, connection.cursor() as cursor:
        for mode in ("live", "test"):
            values = (A, f'{{"mode": "{mode}"}}')
            cursor.execute(
                "INSERT INTO events (organization_id, type, payload, subject_id, subject_version)"
                " VALUES (%s, 'made.up', %s, gen_random_uuid(), 1)",
                values,
            )
    for revision, left in (("0032", 2), ("0033", 1)):
        upgrade(revision=revision)
        assert read(connection, "SELECT count(*) FROM events") == [(left,)]


def check_past_messages(connection: Any) -> None:
    """Messages stay where they are at the upgrade, and those that have moved come back at the downgrade."""
    upgrade(revision="0043")
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(f"INSERT INTO messages {ROWS['past_messages'].format(org=A)}")
    messages = read(connection, "SELECT * FROM messages")
    upgrade(revision="0044")
    assert read(connection, "SELECT * FROM all_messages") == messages
    with connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO past_messages SELECT * FROM messages; DELETE FROM messages")
    assert read(connection, "SELECT * FROM all_messages") == messages
    downgrade(revision="0043")
    assert read(connection, "SELECT * FROM messages") == messages


def check_partitions(connection: Any, months: int) -> None:
    assert len({*read(connection, "SELECT tableoid FROM request_counts")}) == months == 3
    assert read(connection, "SELECT tableoid::regclass::text, count(*) FROM usage_events GROUP BY 1 ORDER BY 1") == [
        ("usage_events_y2026m02", 1),
        ("usage_events_y2026m03", 1),
        ("usage_events_y2026m04", 2),
    ]
    keys = "SELECT event_id, idempotency_key, month, quantity FROM usage_event_keys ORDER BY event_id"
    kept = "SELECT id, idempotency_key, month, quantity FROM usage_events ORDER BY id"
    assert read(connection, keys) == read(connection, kept)
    assert read(connection, "SELECT month::text FROM usage_events_ahead") == [("2026-04-01",)]


def read(connection: Any, sql: str) -> list[Any]:
    with connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


@contextmanager
def empty_database(config: dict[str, Any], superuser: Any) -> Iterator[tuple[Flask, sa.Engine]]:
    """A database without tables, with an application whose migrations run in it."""
    superuser.rollback()
    superuser.autocommit = True
    try:
        with superuser.cursor() as cursor:
            cursor.execute("CREATE DATABASE there_and_back OWNER saas")
        url = sa.make_url(config["DATABASE_OWNER_URL"]).set(database="there_and_back")
        app = Flask(__name__)
        app.config["SQLALCHEMY_DATABASE_URI"] = app.config["DATABASE_OWNER_URL"] = url
        Migrate(app, db, directory="migrations")
        yield app, sa.create_engine(url, poolclass=sa.NullPool)
    finally:
        with superuser.cursor() as cursor:
            cursor.execute("DROP DATABASE IF EXISTS there_and_back")
        superuser.autocommit = False


HELD = """
SELECT c.relkind::text, c.relname::text FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
UNION SELECT 'function', p.proname FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
UNION SELECT 'trigger', t.tgname || ' on ' || t.tgrelid::regclass FROM pg_trigger t WHERE NOT t.tgisinternal
UNION SELECT 'policy', p.policyname || ' on ' || p.tablename FROM pg_policies p
"""


# Bits of pg_trigger.tgtype: 2 BEFORE, 8 DELETE, 32 TRUNCATE.
EMPTIED_AT_ONCE = """
SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger t WHERE NOT tgisinternal AND tgtype & 10 = 10
   AND NOT EXISTS (SELECT FROM pg_trigger o WHERE o.tgrelid = t.tgrelid AND o.tgtype & 34 = 34)
"""


def test_table_that_keeps_its_rows_refuses_truncate(cursor: Any) -> None:
    """R6: every table with a trigger against DELETE has one against TRUNCATE, which skips the first."""
    cursor.execute(EMPTIED_AT_ONCE)
    assert cursor.fetchall() == []
    for table in ("audit_events", "audit_chain", "usage_events"):
        cursor.execute("SAVEPOINT before")
        with pytest.raises(psycopg2.errors.RestrictViolation, match="append-only"):
            cursor.execute(f"TRUNCATE {table} CASCADE")
        cursor.execute("ROLLBACK TO before")
