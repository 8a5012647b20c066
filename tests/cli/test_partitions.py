"""`flask partitions`: months made ahead, archived to files that are verified first, and put back."""

import contextlib
import json
import sys
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, ProgrammingError

from saas_api.accounts import jobs as account_jobs
from saas_api.billing import invariants, invoices, period_close, periods, usage_costs
from saas_api.billing.invoices import UsageArchived
from saas_api.cli import partition_archives
from saas_api.core import clock, faults, ids
from saas_api.core.db import engine, partitions, tenancy
from saas_api.metering import reversals
from saas_api.metering.reversals import EventArchived, EventReference
from saas_api.ops import jobs
from saas_api.usage import ledger, quantities, request_counts, rollups
from saas_api.usage.ledger import UsageRecord
from saas_api.usage.ranges import DateRange
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing import publish_meter as publish_billing_meter
from tests.support.large_tables import insert_rows
from tests.support.ledger import USAGE_COLUMNS
from tests.support.query_plans import collect_scans
from tests.support.usage_events import EventSender, make_event, publish_meter

ARCHIVED = "usage_events_y2026m04"
TABLES = ("usage_events", "request_counts", "past_messages")
MADE = [f"{table}_y2026m{month:02}" for table in TABLES for month in range(4, 11)]
ROLLUPS = "SELECT * FROM usage_rollups ORDER BY 1, 2, 3, 4, 5, 6, 7, 8"
LINE = text("SELECT invoice_id, id FROM invoice_lines WHERE kind = 'usage' AND meter_code = 'email' AND quantity = 7")
COUNTS = """INSERT INTO request_counts
  SELECT %s, at, gen_random_uuid(), '/r', 'GET', 'live', 422, false, 7
  FROM unnest(ARRAY['2026-04-03 10:00Z', '2026-04-30 23:00Z', '2026-05-01 00:00Z']::timestamptz[]) at"""
EXTRA_ROW = f"""INSERT INTO usage_events ({USAGE_COLUMNS}, month)
  SELECT organization_id, 'x', 'x', 'sms', 1, starts_at, id, month FROM billing_periods WHERE seq = 1"""
ALL_ROWS = "SELECT * FROM usage_events ORDER BY recorded_xid, id"


def run(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["partitions", *arguments])


def archive(app: Flask, directory: Path, *options: str, table: str = "usage_events") -> dict[str, Any]:
    result = run(app, "archive", "--before", "2026-06", "--to", str(directory), "--table", table, "--json", *options)
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def archived_names(data: dict[str, Any]) -> list[str]:
    return [partition["partition"] for partition in data["archived"]]


def reasons(data: dict[str, Any], partition: str = ARCHIVED) -> str:
    return " ".join(reason for kept in data["kept"] if kept["partition"] == partition for reason in kept["reasons"])


@pytest.fixture
def acme(app: Flask, superuser: Any) -> Iterator[BillingOrganization]:
    """An organization with an event in April, one in May and a reversal of the latter; nothing is archived later."""
    with app.app_context():
        organization = create_organization()
        organization.use(5, at=day(3), properties={"note": 'a "quoted", line\nand another', "empty": ""})
        go_to(organization, day(2, month=5))
        organization.use(7, "email")
        organization.reverse(organization.use(2))
        jobs.prepare_partitions()
        yield organization
        with superuser, superuser.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {', '.join(MADE)}")


def go_to(organization: BillingOrganization, at: datetime) -> None:
    """Freeze time at an instant that a billing period contains."""
    clock.freeze_time(at)
    with organization.transaction() as session:
        periods.ensure_period(session, organization.id, at)


def invoice(at: datetime | None = None) -> None:
    """Close what has ended, and roll up its usage."""
    clock.freeze_time(at or day(1, 2, month=8))
    period_close.close_due(clock.now())
    rollups.rebuild_rollups()


def stray_rows() -> int:
    with tenancy.system_session("ops.partitions") as session:
        return partitions.count_stray_rows(session)["usage_events"]


def test_event_of_a_month_without_partition_is_recorded_and_moved_when_there_is_one(
    app: Flask, acme: BillingOrganization
) -> None:
    go_to(acme, day(4, month=9))
    acme.use(1)
    before = acme.rows(ALL_ROWS)
    assert stray_rows() == 1
    assert run(app, "prepare").exit_code == 0
    assert stray_rows() == 0
    assert acme.rows(ALL_ROWS) == before
    assert "Partitions made: 0." in run(app, "prepare").stdout


def test_second_event_with_a_key_is_refused_in_every_month(acme: BillingOrganization) -> None:
    [april, *_] = acme.rows(ALL_ROWS)
    again = UsageRecord(ids.new_id(), april.source, april.idempotency_key, "sms", 1, day(3, month=5))
    with pytest.raises(IntegrityError) as refusal, acme.transaction() as session:
        session.connection().exec_driver_sql(*ledger.append_usage_statement(acme.id, again))
    assert engine.violated_constraint(refusal.value) == ledger.KEY_CONSTRAINT


def test_usage_without_an_open_period_names_the_table_and_not_its_partition(acme: BillingOrganization) -> None:
    event = UsageRecord(ids.new_id(), "s", "k", "sms", 1, day(3, month=12))
    with pytest.raises(IntegrityError) as refusal, acme.transaction() as session:
        session.connection().exec_driver_sql(*ledger.append_usage_statement(acme.id, event))
    assert engine.violated_constraint(refusal.value) == "usage_events.billing_period_id"


def test_usage_of_a_period_is_read_from_one_partition(app: Flask, acme: BillingOrganization) -> None:
    [(period_id,)] = acme.rows("SELECT id FROM billing_periods WHERE month = '2026-05-01'")
    with collect_scans(app, "usage_events") as scans, acme.transaction() as session:
        assert ledger.has_usage(session, acme.id, period_id)
        quantities.period_quantities(session, acme.id, period_id)
        quantities.exact_totals(session, acme.id, period_id, ["sms"])
    assert {scan.table for scan in scans} == {"usage_events_y2026m05"}
    with collect_scans(app, "usage_events") as scans:
        period_close.close_due(day(1, 2, month=6))
    assert {scan.table for scan in scans if scan.rows_read} == {ARCHIVED, "usage_events_y2026m05"}


def test_archived_month_keeps_what_was_counted_and_comes_back_whole(
    app: Flask, acme: BillingOrganization, tmp_path: Path
) -> None:
    invoice()
    before, rollups_before = acme.rows(ALL_ROWS), acme.rows(ROLLUPS)
    assert archived_names(archive(app, tmp_path)) == [ARCHIVED, "usage_events_y2026m05"]
    assert acme.rows(ALL_ROWS) == []
    assert acme.rows(ROLLUPS) == rollups_before
    assert rollups.rebuild_rollups().differences == 0
    assert acme.rows(ROLLUPS) == rollups_before
    assert [result for result in invariants.check_invariants() if result.violations] == []
    with acme.transaction() as session:
        found = ledger.find_event(session, acme.id, before[0].source, before[0].idempotency_key)
        assert found == (before[0].id, before[0].quantity)
        [(invoice_id, line_id)] = session.execute(LINE).all()
        with pytest.raises(UsageArchived):
            invoices.get_events_of_line(session, *invoices.get_line(session, acme.id, invoice_id, line_id))
    assert "archived 2026-" in run(app, "list").stdout
    assert archive(app, tmp_path) == {"archived": [], "kept": []}
    for month in ("04", "05"):
        assert run(app, "restore", str(tmp_path / f"usage_events-2026-{month}.parquet")).exit_code == 0
    assert acme.rows(ALL_ROWS) == before
    assert rollups.rebuild_rollups().differences == 0
    assert [result for result in invariants.check_invariants() if result.violations] == []


def test_report_says_what_it_lacks_of_archived_months(app: Flask, acme: BillingOrganization, tmp_path: Path) -> None:
    publish_billing_meter("peak", "max")
    go_to(acme, day(10, month=5))
    acme.use(9, "peak")
    go_to(acme, day(10, month=6))
    acme.use(4, "peak")
    invoice()
    days = DateRange(date(2026, 4, 1), date(2026, 6, 30), ZoneInfo("UTC"))

    def read(*codes: str) -> list[Any]:
        with acme.transaction() as session:
            report = usage_costs.usage_report(session, acme.id, days)
            whole = [(usage.quantity, usage.requests) for usage in report.by_meter if usage.meter in codes]
            return [*whole, report.archived_before]

    assert read("email", "peak") == [(7, 1), (9, 2), None]
    archive(app, tmp_path)
    assert read("email", "peak") == [(7, 1), (4, 2), day(1, month=6)]
    days = DateRange(date(2026, 4, 1), date(2026, 5, 31), ZoneInfo("UTC"))
    assert read("email", "peak") == [(7, 1), (0, 1), day(1, month=6)]
    days = DateRange(date(2026, 6, 1), date(2026, 6, 30), ZoneInfo("UTC"))
    assert read("peak") == [(4, 1), None]
    days = DateRange(date(2026, 4, 1), date(2026, 4, 30), ZoneInfo("UTC"))
    assert read("sms") == [(5, 1), None]  # sums are whole


def test_event_of_an_archived_month_counts_once(
    app: Flask, client: FlaskClient, acme: BillingOrganization, tmp_path: Path
) -> None:
    publish_meter(app)
    clock.freeze_time(day(10, month=5))
    sender, event = EventSender(client), make_event(ids.format_id("org", acme.id))
    assert sender.send(event)["accepted"] == 1
    invoice()
    archive(app, tmp_path)
    clock.freeze_time(day(1, 3, month=8))
    assert sender.send({**event, "time": "2026-08-01T02:30:00Z"})["duplicates"] == 1
    with pytest.raises(EventArchived):
        reversals.reverse_event(EventReference(event["id"], "lookups"))
    assert acme.rows(ALL_ROWS) == []


def test_month_that_is_still_needed_is_kept(app: Flask, acme: BillingOrganization, tmp_path: Path) -> None:
    create_organization("Idle")  # its open period takes usage of any age
    clock.freeze_time(day(1, month=8))
    assert "2 billing periods are not invoiced." in reasons(archive(app, tmp_path))
    invoice(day(1, 2, month=6))
    kept = archive(app, tmp_path)
    assert "Late usage is accepted for 35 days" in reasons(kept)
    acme.record(UsageRecord(ids.new_id(), "s", "late", "sms", 1, day(29)))
    clock.freeze_time(day(20, month=6))
    kept = archive(app, tmp_path, "--dry-run")
    assert "1 billing periods that pay for late usage of it are not invoiced." in reasons(kept)
    assert "events are not in the rollups yet." not in reasons(kept)
    assert len(acme.rows(ALL_ROWS)) == 5


def test_month_with_an_unpaid_invoice_is_kept(app: Flask, acme: BillingOrganization, tmp_path: Path) -> None:
    acme.switch("starter@1", clock.now())
    invoice()
    kept = archive(app, tmp_path)
    assert "1 invoices are drafts or not paid." in reasons(kept, "usage_events_y2026m05")
    assert archived_names(kept) == [ARCHIVED]


@pytest.mark.parametrize("point", ["partitions.written", "partitions.before_commit"])
def test_interrupted_archive_loses_nothing_and_is_repeated(
    app: Flask, acme: BillingOrganization, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    invoice()
    before = acme.rows(ALL_ROWS)
    monkeypatch.setattr(faults, "active_fault", [f"{point}:raise"])
    monkeypatch.setattr(faults, "_hits", {})
    with pytest.raises(RuntimeError, match=point):
        app.test_cli_runner().invoke(
            args=["partitions", "archive", "--before", "2026-06", "--to", str(tmp_path), "--table", "usage_events"],
            catch_exceptions=False,
        )
    assert acme.rows(ALL_ROWS) == before
    assert len(archived_names(archive(app, tmp_path))) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("usage_events-2026-04.json", "usage_events-2026-04.parquet"),
        *("usage_events-2026-05.json", "usage_events-2026-05.parquet"),
    ]


def test_row_that_came_after_the_file_was_written_is_not_dropped(
    app: Flask, acme: BillingOrganization, superuser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoice()

    def add_row(point: str) -> None:
        if point == "partitions.written":
            insert_rows(superuser, "usage_events", EXTRA_ROW)

    monkeypatch.setattr(partition_archives, "fault_point", add_row)
    result = run(app, "archive", "--before", "2026-05", "--to", str(tmp_path), "--table", "usage_events")
    assert result.exit_code == 1
    assert "Rows have come to usage_events_y2026m04" in result.stderr
    assert len(acme.rows(ALL_ROWS)) == 5


def test_counts_of_refused_calls_are_divided_archived_and_restored(
    app: Flask, acme: BillingOrganization, superuser: Any, tmp_path: Path
) -> None:
    insert_rows(superuser, "request_counts", COUNTS, str(acme.id))
    jobs.prepare_partitions()
    april = DateRange(date(2026, 4, 1), date(2026, 4, 30), ZoneInfo("UTC"))
    with collect_scans(app, "request_counts") as scans, acme.transaction() as session:
        before = request_counts.refused_calls(session, acme.id, april, "live")
    assert [(scan.table, scan.rows_read) for scan in scans] == [("request_counts_y2026m04", 2)]
    clock.freeze_time(day(1, month=5))
    data = archive(app, tmp_path, table="request_counts")
    assert archived_names(data) == ["request_counts_y2026m04"]
    with acme.transaction() as session:
        assert request_counts.refused_calls(session, acme.id, april, "live") == []
    assert run(app, "restore", str(tmp_path / "request_counts-2026-04.parquet")).exit_code == 0
    with acme.transaction() as session:
        assert request_counts.refused_calls(session, acme.id, april, "live") == before


AUDIT_EVENTS = """INSERT INTO audit_events (actor_type, action, target_type, target_id, data, ip, at, month)
  SELECT 'system', 'made.up', 'job', number::text, '{"slot": 1.50}', '203.0.113.9', %(month)s::timestamptz, %(month)s
  FROM generate_series(1, 3) number"""
AUDIT_ROWS = "SELECT * FROM audit_events WHERE month < '2026-06-01' ORDER BY id"


@pytest.fixture
def old_log(app: Flask, superuser: Any) -> Iterator[None]:
    """Three audit events in April, and three in May of 2026."""
    months = ("2026-04-01", "2026-05-01")
    with superuser, superuser.cursor() as cursor:
        cursor.execute(
            "SET LOCAL session_replication_role = replica; DELETE FROM audit_events; DELETE FROM audit_chain"
        )
    with superuser, superuser.cursor() as cursor:
        for month in months:
            cursor.execute("SELECT create_partition('audit_events', %s)", (month,))
            cursor.execute(AUDIT_EVENTS, {"month": month})
    yield
    with superuser, superuser.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS audit_events_y2026m04, audit_events_y2026m05")


def audit_rows(superuser: Any) -> list[Any]:
    with superuser, superuser.cursor() as cursor:
        cursor.execute(AUDIT_ROWS)
        return list(cursor.fetchall())


def verify_log(app: Flask, *options: str) -> tuple[int, dict[str, Any]]:
    result = app.test_cli_runner().invoke(args=["audit", "verify", "--json", *options])
    return result.exit_code, json.loads(result.stdout)


def change_past_triggers(superuser: Any, statement: str) -> None:
    with superuser, superuser.cursor() as cursor:
        cursor.execute(f"SET LOCAL session_replication_role = replica; {statement}")


def test_archived_audit_log_stays_verifiable_and_comes_back_whole(
    app: Flask, superuser: Any, old_log: None, tmp_path: Path
) -> None:
    before, (_, intact) = audit_rows(superuser), verify_log(app)
    assert archived_names(archive(app, tmp_path, table="audit_events")) == [
        "audit_events_y2026m04",
        "audit_events_y2026m05",
    ]
    assert audit_rows(superuser) == []
    code, report = verify_log(app, "--head", intact["head"])
    assert (code, report["problem"]) == (0, None)
    for month in ("04", "05"):
        assert run(app, "restore", str(tmp_path / f"audit_events-2026-{month}.parquet")).exit_code == 0
        assert verify_log(app, "--head", intact["head"])[0] == 0
    assert audit_rows(superuser) == before
    change_past_triggers(superuser, "UPDATE audit_events SET data = '{}' WHERE month = '2026-04-01'")
    assert "was changed" in verify_log(app)[1]["problem"]


def test_interrupted_archive_of_the_audit_log_records_nothing(
    app: Flask, superuser: Any, old_log: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = audit_rows(superuser)
    monkeypatch.setattr(faults, "active_fault", ["partitions.before_commit:raise"])
    monkeypatch.setattr(faults, "_hits", {})
    arguments = ["partitions", "archive", "--before", "2026-05", "--to", str(tmp_path), "--table", "audit_events"]
    with pytest.raises(RuntimeError, match="before_commit"):
        app.test_cli_runner().invoke(args=arguments, catch_exceptions=False)
    assert audit_rows(superuser) == before
    assert (verify_log(app)[0], verify_log(app)[1]["events"]) == (0, 6)
    assert archived_names(archive(app, tmp_path, table="audit_events"))[0] == "audit_events_y2026m04"
    assert verify_log(app)[0] == 0


@pytest.mark.parametrize(
    "tampering",
    [
        "DELETE FROM archived_partitions WHERE month = '2026-04-01'",
        "DELETE FROM audit_events WHERE action = 'audit_log.archived'",
        """UPDATE audit_chain SET month = '2026-05-01' WHERE month > '2026-05-01';
        DELETE FROM audit_events WHERE month > '2026-05-01' AND action <> 'audit_log.archived'""",
        "UPDATE audit_chain SET hash = sha256('x') WHERE position = 3",
        "UPDATE archived_partitions SET sha256 = 'of another file' WHERE month = '2026-04-01'",
    ],
)
def test_removal_that_only_looks_like_an_archive_is_found(
    app: Flask, superuser: Any, old_log: None, tmp_path: Path, tampering: str
) -> None:
    archive(app, tmp_path, table="audit_events")
    change_past_triggers(superuser, tampering)
    assert verify_log(app)[0] == 3


def test_recent_or_broken_months_of_the_audit_log_are_kept(
    app: Flask, superuser: Any, old_log: None, tmp_path: Path
) -> None:
    clock.freeze_time(day(1, month=7))
    kept = archive(app, tmp_path, table="audit_events")
    assert archived_names(kept) == ["audit_events_y2026m04"]
    assert "Events are kept here for 90 days" in reasons(kept, "audit_events_y2026m05")
    clock.freeze_time(None)
    change_past_triggers(superuser, "UPDATE audit_events SET reason = 'x' WHERE month = '2026-05-01'")
    kept = archive(app, tmp_path, table="audit_events")
    assert "The chain of the log is broken." in reasons(kept, "audit_events_y2026m05")


def test_archived_months_of_the_audit_log_expire_with_the_others(
    app: Flask, superuser: Any, old_log: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(app, "archive", "--before", "2026-05", "--to", str(tmp_path), "--table", "audit_events")
    assert result.exit_code == 0, result.stderr
    _, before = verify_log(app)
    monkeypatch.setitem(app.config, "AUDIT_RETENTION_DAYS", 90)
    with app.app_context():
        assert account_jobs.expire_audit_events()["deleted"] >= 5
    assert verify_log(app, "--head", before["head"])[0] == 0
    refused = run(app, "restore", str(tmp_path / "audit_events-2026-04.parquet"))
    assert "audit_events of 2026-04-01 is not archived" in refused.stderr
    assert verify_log(app)[0] == 0


def test_archive_waits_for_a_statement_that_reads_the_table(
    app: Flask, acme: BillingOrganization, engines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoice()
    reader = engines.postgres.superuser("saas")
    monkeypatch.setattr(partition_archives, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(partition_archives.time, "sleep", lambda _: reader.rollback())
    with contextlib.closing(reader), reader.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM usage_events")
        assert len(archived_names(archive(app, tmp_path))) == 2


def test_damaged_archive_is_not_restored(app: Flask, acme: BillingOrganization, tmp_path: Path) -> None:
    invoice()
    archive(app, tmp_path)
    file = tmp_path / "usage_events-2026-04.parquet"
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content)
    result = run(app, "restore", str(file))
    assert (result.exit_code, acme.rows(ALL_ROWS)) == (1, [])
    assert "is damaged: its checksum is not that of usage_events-2026-04.json" in result.stderr


def test_archive_of_another_database_is_not_replaced(app: Flask, acme: BillingOrganization, tmp_path: Path) -> None:
    invoice()
    archive(app, tmp_path)
    manifest = tmp_path / "usage_events-2026-04.json"
    written = json.loads(manifest.read_text(encoding="utf-8"))
    assert run(app, "restore", str(tmp_path / "usage_events-2026-04.parquet")).exit_code == 0
    manifest.write_text(json.dumps({**written, "cluster": 1}), encoding="utf-8")
    refused = run(app, "archive", "--before", "2026-06", "--to", str(tmp_path), "--table", "usage_events")
    assert (refused.exit_code, "is of another database" in refused.stderr) == (1, True)
    manifest.write_text(json.dumps(written), encoding="utf-8")
    assert archived_names(archive(app, tmp_path)) == [ARCHIVED], "a repeat of its own"


def test_archive_without_pyarrow_is_refused_in_one_line(
    app: Flask, acme: BillingOrganization, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoice()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run(app, "archive", "--before", "2026-06", "--to", str(tmp_path))
    assert result.stderr == "Archives need pyarrow: pip install -r requirements-archive.txt.\n"
    assert len(acme.rows(ALL_ROWS)) == 4


def test_application_login_cannot_drop_a_partition(acme: BillingOrganization) -> None:
    for role in ("cli.partitions", "billing.close"):
        with pytest.raises(ProgrammingError, match="must be owner"), tenancy.system_session(role) as session:
            session.execute(text(f"DROP TABLE {ARCHIVED}"))
