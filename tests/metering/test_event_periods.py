"""Which billing period pays for usage events: open, closed, late, cut in the middle of a batch, and closed for good."""

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.accounts import organizations
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import organization_closing, period_close
from saas_api.cli.dev.engines import Engines
from saas_api.core import clock
from saas_api.core.db import tenancy
from tests.support.usage import UsageOrganization, sign_up_organization
from tests.support.usage_events import EventSender, ledger_rows, make_event, publish_meter

MARCH, APRIL, MAY = (datetime(2026, month, 1, tzinfo=UTC) for month in (3, 4, 5))
NOW = datetime(2026, 4, 15, 12, tzinfo=UTC)
PAYS = """(SELECT starts_at FROM billing_periods p WHERE p.id = billing_period_id) AS pays,
  (SELECT starts_at FROM billing_periods p WHERE p.id = late_for_period_id) AS late_for"""
HELD_KEY = """INSERT INTO usage_event_keys (organization_id, source, idempotency_key, event_id, month, quantity)
VALUES (%(id)s, 'lookups', 'held', gen_random_uuid(), now(), 1)"""


@pytest.fixture
def sender(app: Flask, client: FlaskClient) -> EventSender:
    """A service that reports lookups."""
    publish_meter(app)
    return EventSender(client)


@pytest.fixture
def acme(sender: EventSender) -> Iterator[UsageOrganization]:
    """Signed up on 1 March, when its first period began; March is closed and April is open on the 15th."""
    organization = sign_up_organization(sender.client, at=MARCH)
    first = organization.open_period(MARCH)
    organization.open_period(APRIL)
    organization.close_period(first)
    clock.freeze_time(NOW)
    yield organization
    clock.freeze_time(None)


def event_at(organization: UsageOrganization, at: datetime, **attributes: Any) -> dict[str, Any]:
    return make_event(organization.owner.organization_id, time=clock.format_rfc3339(at), **attributes)


def rows(organization: UsageOrganization, columns: str = PAYS) -> list[Any]:
    return ledger_rows(organization.app, organization.owner.organization_id, columns)


def test_the_open_period_that_contains_an_event_pays_for_it(sender: EventSender, acme: UsageOrganization) -> None:
    acme.open_period(MAY)
    assert sender.codes(event_at(acme, APRIL), event_at(acme, NOW + timedelta(minutes=5))) == []
    assert rows(acme) == [(APRIL, None)] * 2
    clock.freeze_time(MAY)  # April is in its grace
    assert sender.codes(event_at(acme, MAY - timedelta(milliseconds=1)), event_at(acme, MAY)) == []
    assert rows(acme)[2:] == [(APRIL, None), (MAY, None)]


def test_the_running_period_pays_for_late_usage_up_to_35_days_old(sender: EventSender, acme: UsageOrganization) -> None:
    limit = NOW - timedelta(days=35)
    late = [event_at(acme, APRIL - timedelta(seconds=1)), event_at(acme, limit + timedelta(seconds=1))]
    assert sender.codes(*late, event_at(acme, limit)) == ["TOO_OLD"]
    assert rows(acme) == [(APRIL, MARCH)] * 2


def test_usage_from_before_the_account_counts_at_its_beginning(sender: EventSender, client: FlaskClient) -> None:
    organization = sign_up_organization(client, at=NOW - timedelta(hours=1))
    clock.freeze_time(NOW)
    early, old = event_at(organization, NOW - timedelta(days=34)), event_at(organization, NOW - timedelta(days=36))
    assert sender.codes(early, old) == ["TOO_OLD"]
    assert rows(organization, "occurred_at") == [(NOW - timedelta(hours=1),)]


def test_an_event_more_than_five_minutes_ahead_is_refused(sender: EventSender, acme: UsageOrganization) -> None:
    assert sender.codes(event_at(acme, NOW + timedelta(minutes=5, seconds=1))) == ["IN_FUTURE"]


def test_one_batch_opens_the_periods_that_its_organizations_lack(
    app: Flask, sender: EventSender, acme: UsageOrganization, client: FlaskClient
) -> None:
    other = sign_up_organization(client, "Globex", "bob@globex.example", at=NOW)
    clock.freeze_time(datetime(2026, 6, 2, tzinfo=UTC))
    events = [event_at(organization, clock.now(), id="same") for organization in (acme, other)]
    assert sender.send(*events)["accepted"] == 2
    assert [len(rows(organization)) for organization in (acme, other)] == [1, 1]
    assert rows(acme) == [(datetime(2026, 6, 1, tzinfo=UTC), None)]


def test_a_suspended_organization_is_billed_for_what_it_has_used(sender: EventSender, acme: UsageOrganization) -> None:
    with acme.app.app_context(), tenancy.system_session("auth.organizations") as session:
        organizations.suspend(session, acme.id, SYSTEM_ACTOR, "a reason that is long")
    assert sender.send(event_at(acme, NOW))["accepted"] == 1


def test_a_closed_organization_pays_for_what_it_used_before(sender: EventSender, acme: UsageOrganization) -> None:
    with acme.app.app_context():
        organization_closing.close_organization(acme.id, SYSTEM_ACTOR, "a reason that is long")
    clock.freeze_time(NOW + timedelta(hours=1))
    before, after = event_at(acme, NOW - timedelta(minutes=1)), event_at(acme, NOW)
    assert sender.codes(before, after) == ["ORGANIZATION_CLOSED"]
    assert rows(acme) == [(NOW, APRIL)]
    clock.freeze_time(NOW + timedelta(days=34))
    with acme.app.app_context(), tenancy.system_session("billing.close") as session:
        session.execute(text("UPDATE billing_periods SET state = 'closed', closed_at = now() WHERE state = 'open'"))
    assert sender.codes(event_at(acme, NOW - timedelta(minutes=2))) == ["ORGANIZATION_CLOSED"]
    assert sender.send(before)["duplicates"] == 1


def wait_for_locks(superuser: Any, count: int, thread: threading.Thread) -> None:
    """Wait until some transactions wait for locks, or the thread has ended."""
    ends_at = time.monotonic() + 2  # a lock is awaited for three seconds
    while thread.is_alive() and time.monotonic() < ends_at:
        with superuser, superuser.cursor() as cursor:
            cursor.execute("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0] >= count:
                return
        time.sleep(0.01)


def test_a_closing_waits_for_the_batch_that_has_begun(
    sender: EventSender, acme: UsageOrganization, engines: Engines, superuser: Any
) -> None:
    """A batch that waits in its middle would otherwise write the rest into a period that is closed meanwhile."""
    clock.freeze_time(None)
    acme.open_period(datetime.now(UTC))
    results: list[dict[str, Any]] = []

    def send() -> None:
        events = [make_event(acme.owner.organization_id, id=event_id) for event_id in ("a", "held", "z")]
        results.append(EventSender(acme.app.test_client(), headers=sender.headers).send(*events))

    def close() -> None:
        with acme.app.app_context():
            period_close.close_now(acme.id)

    sending, closing = threading.Thread(target=send), threading.Thread(target=close)
    holder = engines.postgres.superuser("saas")
    with contextlib.closing(holder), holder.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")  # without locks of its own on the period
        cursor.execute(HELD_KEY, {"id": str(acme.id)})
        sending.start()
        wait_for_locks(superuser, 1, sending)
        closing.start()
        wait_for_locks(superuser, 2, closing)
        holder.rollback()
    sending.join()
    closing.join()
    assert [result["accepted"] for result in results] == [3]
    [period] = {period for (period,) in rows(acme, "billing_period_id")}
    after_closing = """SELECT count(*) FROM usage_events u JOIN billing_periods p ON p.id = u.billing_period_id
      WHERE u.recorded_at > p.closed_at"""
    assert acme.rows(after_closing) == [(0,)]
    [invoice] = acme.rows(f"SELECT id FROM invoices WHERE billing_period_id = '{period}'")
    assert invoice


def test_a_fault_at_the_commit_writes_nothing_and_a_repeat_is_recorded(
    sender: EventSender, acme: UsageOrganization, superuser: Any, client: FlaskClient
) -> None:
    other = sign_up_organization(client, "Globex", "bob@globex.example", at=NOW)
    events = [event_at(organization, NOW) for organization in (acme, other)]
    with superuser, superuser.cursor() as cursor:
        cursor.execute("""CREATE FUNCTION fail_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
          BEGIN RAISE EXCEPTION 'out of order' USING ERRCODE = '57P03'; END $$""")
        cursor.execute("""CREATE CONSTRAINT TRIGGER fails AFTER INSERT ON usage_events DEFERRABLE INITIALLY DEFERRED
          FOR EACH ROW EXECUTE FUNCTION fail_at_commit()""")
    try:
        response = sender.post(events)
        assert (response.status_code, response.json["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
    finally:
        with superuser, superuser.cursor() as cursor:
            cursor.execute("DROP TRIGGER fails ON usage_events")
            cursor.execute("DROP FUNCTION fail_at_commit")
    assert rows(acme) == rows(other) == []
    assert sender.send(*events)["accepted"] == 2
