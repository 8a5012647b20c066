"""The hash chain of the audit log: written in each commit, verified by `flask audit verify`."""

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg2.errors
import pytest
import sqlalchemy as sa
from flask import Flask

from saas_api.accounts import audit, audit_chain, jobs
from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.support.accounts import User
from tests.support.team import invite

WRITERS, EVENTS_EACH = 6, 10
INSERT_EVENT = """
INSERT INTO audit_events (actor_type, action, target_type, target_id, at)
VALUES ('system', 'made.up', 'job', 'x', now())
"""


def verify(app: Flask, *options: str) -> tuple[int, dict[str, Any]]:
    result = app.test_cli_runner().invoke(args=["audit", "verify", "--json", *options])
    return result.exit_code, json.loads(result.stdout)


@contextmanager
def past_triggers(superuser: Any) -> Iterator[Any]:
    """A cursor without triggers, as an attacker with the owner's login has."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        yield cursor


def test_untouched_log_is_intact(app: Flask, alice: User) -> None:
    invite(alice, "dave@acme.example")
    code, report = verify(app)
    assert (code, report["problem"]) == (0, None)
    assert report["head"].startswith(f"{report['events']}:")


@pytest.mark.parametrize(
    ("tampering", "problem"),
    [
        ("UPDATE audit_events SET action = 'nothing.done' WHERE id = %(id)s", "was changed"),
        ("UPDATE audit_events SET ip = '203.0.113.9' WHERE id = %(id)s", "was changed"),
        ("UPDATE audit_events SET at = at + interval '1 microsecond' WHERE id = %(id)s", "was changed"),
        ("DELETE FROM audit_events WHERE id = %(id)s", "was removed"),
        (
            "DELETE FROM audit_chain WHERE event_id = %(id)s; DELETE FROM audit_events WHERE id = %(id)s",
            "of the chain is missing",
        ),
        (
            INSERT_EVENT,
            "is not in the chain",
        ),
    ],
)
def test_tampering_is_found(app: Flask, alice: User, superuser: Any, tampering: str, problem: str) -> None:
    """R6: the owner of the tables may switch triggers off, and the chain reveals what was done then."""
    invite(alice, "dave@acme.example")
    with past_triggers(superuser) as cursor:
        cursor.execute("SELECT min(id) FROM audit_events")
        cursor.execute(tampering, {"id": cursor.fetchone()[0]})
    code, report = verify(app)
    assert code == 3
    assert problem in report["problem"]


def test_log_cut_off_at_its_end_is_found_with_a_known_head(app: Flask, alice: User, superuser: Any) -> None:
    invite(alice, "dave@acme.example")
    _, before = verify(app)
    assert verify(app, "--head", before["head"])[0] == 0
    with past_triggers(superuser) as cursor:
        cursor.execute("DELETE FROM audit_events WHERE id = (SELECT max(event_id) FROM audit_chain)")
        cursor.execute("DELETE FROM audit_chain WHERE position = %s", (before["events"],))
    assert verify(app)[0] == 0
    code, report = verify(app, "--head", before["head"])
    assert code == 3
    assert "cut off" in report["problem"]


def test_malformed_head_is_a_wrong_use(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["audit", "verify", "--head", "latest"])
    assert result.exit_code == 2


def write(app: Flask, organizations: list[UUID], barrier: threading.Barrier, failures: list[BaseException]) -> None:
    try:
        barrier.wait(10)
        for number in range(EVENTS_EACH):
            with app.app_context(), tenancy.system_session("auth.profile") as session:
                for organization_id in organizations:
                    audit.record_event(
                        session, organization_id, audit.Actor("operator", "x"), "a.b", ("number", number), {"n": number}
                    )
    except BaseException as error:  # noqa: BLE001 - the test shows it
        failures.append(error)


def test_concurrent_writers_make_one_chain(app: Flask, alice: User, carol: User) -> None:
    """R6: transactions that write about the same organizations in opposite orders neither fail nor break the chain."""
    organizations = [ids.parse_id("org", alice.organization_id), ids.parse_id("org", carol.organization_id)]
    barrier, failures = threading.Barrier(WRITERS), []
    _, before = verify(app)
    threads = [
        threading.Thread(target=write, args=(app, organizations[:: 1 if number % 2 else -1], barrier, failures))
        for number in range(WRITERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    code, report = verify(app)
    assert (code, report["problem"]) == (0, None)
    # an operator's action is recorded for the organization and for the platform
    assert report["events"] - before["events"] == WRITERS * EVENTS_EACH * 4


def test_open_transaction_with_an_audit_event_blocks_no_other(app: Flask, alice: User) -> None:
    """R6: the chain is locked for the commit only, so a long transaction delays no other event."""
    with app.app_context(), tenancy.system_session("auth.profile") as session:
        audit.record_event(session, None, audit.SYSTEM_ACTOR, "slow.began", ("job", "x"))
        session.flush()
        invite(alice, "dave@acme.example")
        held = session.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7215904"))
        assert held == 0
    assert verify(app)[0] == 0


def write_old_events(superuser: Any, *ages_in_days: int) -> None:
    with superuser, superuser.cursor() as cursor:
        for age in ages_in_days:
            cursor.execute(INSERT_EVENT.replace("now()", "now() - make_interval(days => %s)"), [age])


def expire(app: Flask) -> Any:
    with app.app_context():
        return jobs.expire_audit_events()


def test_expired_events_are_deleted_from_the_oldest_end_and_the_chain_stays_intact(
    app: Flask, alice: User, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: the log grew for ever; a retention period deletes old events, and tampering is still found."""
    with past_triggers(superuser) as cursor:
        cursor.execute("DELETE FROM audit_events; DELETE FROM audit_chain")
    write_old_events(superuser, 500, 400, 399, 120, 380, 1)
    _, before = verify(app)
    assert expire(app) == {"deleted": 0}  # nothing is deleted unless it is set
    monkeypatch.setitem(app.config, "AUDIT_RETENTION_DAYS", 365)
    monkeypatch.setattr(audit_chain, "_MAX_DELETED", 1)
    assert expire(app) == {"deleted": 3}
    assert expire(app) == {"deleted": 0}
    code, report = verify(app, "--head", before["head"])
    assert (code, report["problem"]) == (0, None)
    assert report["events"] == 3 + 3  # what is left, among it an old event behind a younger one, and the three records
    with past_triggers(superuser) as cursor:
        cursor.execute("DELETE FROM audit_events WHERE id = (SELECT min(id) FROM audit_events)")
    assert "was removed" in verify(app)[1]["problem"]


def test_log_whose_events_have_all_expired_goes_on(app: Flask, superuser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "AUDIT_RETENTION_DAYS", 90)
    write_old_events(superuser, 200, 100)
    _, before = verify(app)
    assert expire(app) == {"deleted": 2}
    code, report = verify(app)
    assert (code, report["events"]) == (0, 1)
    write_old_events(superuser, 91)
    assert verify(app, "--head", report["head"])[0] == 0
    assert verify(app, "--head", before["head"])[0] == 0
    assert "has expired" in verify(app, "--head", f"1:{'0' * 64}")[1]["problem"]


def test_oldest_events_that_no_record_names_were_removed(app: Flask, superuser: Any) -> None:
    """R8: a removal that only looks like expiry is found."""
    write_old_events(superuser, 400, 300, 200)
    with past_triggers(superuser) as cursor:
        cursor.execute("DELETE FROM audit_events WHERE id IN (SELECT id FROM audit_events ORDER BY id LIMIT 2)")
        cursor.execute("DELETE FROM audit_chain WHERE position = 1")
    assert verify(app)[0] == 3


OLD_PARTITIONS = [f"audit_events_y2025m{month:02}" for month in (1, 2, 3)]
PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit_events'::regclass"


@pytest.fixture
def old_log(superuser: Any) -> Iterator[None]:
    """A log with two events in each month of the first quarter of 2025, and no others."""
    with past_triggers(superuser) as cursor:
        cursor.execute("DELETE FROM audit_events; DELETE FROM audit_chain")
    with superuser, superuser.cursor() as cursor:
        for month in ("2025-01-01", "2025-02-01", "2025-03-01"):
            cursor.execute("SELECT create_partition('audit_events', %s)", (month,))
            cursor.execute(
                """INSERT INTO audit_events (actor_type, action, target_type, target_id, at, month)
                SELECT 'system', 'made.up', 'job', 'x', CAST(%(month)s AS date) + n, %(month)s
                FROM generate_series(1, 2) n""",
                {"month": month},
            )
    yield
    with superuser, superuser.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {', '.join(OLD_PARTITIONS)}")


def old_partitions(superuser: Any) -> list[str]:
    with superuser, superuser.cursor() as cursor:
        cursor.execute(PARTITIONS)
        return sorted(name for (name,) in cursor.fetchall() if name in OLD_PARTITIONS)


def test_months_that_have_expired_are_dropped_whole(
    app: Flask, superuser: Any, old_log: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_old_events(superuser, 1)
    _, before = verify(app)
    monkeypatch.setitem(app.config, "AUDIT_RETENTION_DAYS", 90)
    monkeypatch.setattr(audit_chain, "_MAX_DELETED", 1)
    assert expire(app) == {"deleted": 6}
    assert old_partitions(superuser) == []
    code, report = verify(app, "--head", before["head"])
    assert (code, report["problem"], report["events"]) == (0, None, 2)


def test_months_that_somebody_reads_expire_by_their_rows(
    app: Flask, superuser: Any, engines: Any, old_log: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "AUDIT_RETENTION_DAYS", 90)
    with contextlib.closing(engines.postgres.superuser("saas")) as reader, reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM audit_events")
        assert expire(app) == {"deleted": 6}
    assert old_partitions(superuser) == OLD_PARTITIONS
    assert (verify(app)[0], verify(app)[1]["events"]) == (0, 1)
    assert expire(app) == {"deleted": 0}
    assert old_partitions(superuser) == []


def test_event_that_began_in_the_month_before_is_chained_in_the_month_of_the_last_one(
    app: Flask, alice: User, superuser: Any
) -> None:
    """The positions of a month are one piece of the chain, whatever transactions run while it turns."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT (max(month) + interval '1 month')::date FROM audit_chain")
        [(month,)] = cursor.fetchall()
        cursor.execute(INSERT_EVENT.replace("at)", "at, month)").replace("now())", "now(), %s)"), (month,))
    with app.app_context(), tenancy.system_session("auth.profile") as session:
        for number in range(3):
            audit.record_event(session, None, audit.SYSTEM_ACTOR, "late.one", ("number", number))
    invite(alice, "dave@acme.example")
    with superuser, superuser.cursor() as cursor:
        cursor.execute("""SELECT e.target_id, c.month FROM audit_chain c JOIN audit_events e ON e.id = c.event_id
          AND e.month = c.month WHERE e.action = 'late.one' ORDER BY c.position""")
        assert cursor.fetchall() == [(number, month) for number in "012"]
        cursor.execute("SELECT count(*) FROM audit_events WHERE month = %s", (month,))
        assert cursor.fetchone()[0] >= 5
    assert verify(app)[0] == 0


@pytest.mark.parametrize("change", ["UPDATE {} SET action = 'x'", "DELETE FROM {}", "TRUNCATE {}"])
def test_partition_is_append_only_for_the_owner_of_the_tables(superuser: Any, old_log: None, change: str) -> None:
    with pytest.raises(psycopg2.errors.RestrictViolation, match="append-only"), superuser.cursor() as cursor:
        cursor.execute(change.format(OLD_PARTITIONS[0]))
    superuser.rollback()


def test_month_that_goes_back_in_the_chain_is_found(app: Flask, superuser: Any, old_log: None) -> None:
    with past_triggers(superuser) as cursor:
        cursor.execute("UPDATE audit_chain SET month = '2025-01-01' WHERE month = '2025-03-01'")
        cursor.execute("UPDATE audit_events SET month = '2025-01-01' WHERE month = '2025-03-01'")
    assert "of a month before that of the position before it" in verify(app)[1]["problem"]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit_events",
        "UPDATE audit_events SET action = 'x'",
        "DELETE FROM audit_chain",
        "SET saas.changes_audit_log = 'on'; DELETE FROM audit_events",
        "SELECT delete_expired_audit_events(89, 10)",
    ],
)
def test_no_process_can_delete_recent_events(app: Flask, alice: User, statement: str) -> None:
    with (
        app.app_context(),
        pytest.raises(sa.exc.DBAPIError),
        tenancy.system_session("auth.profile") as session,
    ):
        session.execute(sa.text(statement))
    assert verify(app)[0] == 0
