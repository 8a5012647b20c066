"""A close during accepted calls: the period lock loses no usage; no lock or a row lock would."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import period_close, periods, subscriptions
from saas_api.billing.period_close import CloseResult
from saas_api.core import clock, ids
from tests.support.accounts import User, make_key
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing_actions import system_session

LOOK_UP = """SELECT id FROM billing_periods WHERE organization_id = :org AND state = 'open' AND starts_at <= :at
  AND ends_at > :at"""
WRITE = text("""INSERT INTO usage_events (organization_id, source, idempotency_key, meter_code, quantity, occurred_at,
  billing_period_id, month) SELECT :org, 'race', 'k', 'sms', 1, :at, id, month FROM billing_periods
  WHERE id = :period""")
CLOSE = text("""UPDATE billing_periods SET state = 'closed', closed_at = clock_timestamp()
  WHERE organization_id = :org AND seq = 1""")
LATE = """SELECT e.id FROM usage_events e JOIN billing_periods p ON p.id = e.billing_period_id
  WHERE e.recorded_at > p.closed_at"""


def no_lock(_: Session, __: UUID) -> None:
    """Continue without waiting."""


def row_lock(session: Session, organization_id: UUID) -> None:
    locked = text("SELECT 1 FROM billing_periods WHERE organization_id = :org FOR UPDATE")
    session.execute(locked, {"org": organization_id})


def period_lock(session: Session, organization_id: UUID) -> None:
    session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:org, 1))"), {"org": str(organization_id)})


@pytest.mark.parametrize(
    ("lock", "is_lost"), [(no_lock, True), (row_lock, True), (period_lock, False)], ids=["none", "row", "period"]
)
def test_period_lock_waits_for_a_writer_that_has_read_its_period(
    app: Flask, context: Flask, lock: Callable[[Session, UUID], None], *, is_lost: bool
) -> None:
    organization = create_organization()
    values = {"org": organization.id, "at": clock.now()}
    is_done = threading.Event()

    def closer() -> None:
        with app.app_context():
            with system_session() as session:
                lock(session, organization.id)
                session.execute(CLOSE, values)
            is_done.set()

    with ThreadPoolExecutor(1) as pool:
        with organization.transaction() as session:
            if lock is period_lock:
                periods.lock_periods_shared(session, organization.id)
            [period_id] = session.scalars(text(LOOK_UP), values)
            run = pool.submit(closer)
            assert is_done.wait(10 if is_lost else 0.5) == is_lost
            session.execute(WRITE, {**values, "period": period_id})
        run.result()
    assert bool(organization.rows(LATE)) == is_lost


def test_close_that_times_out_on_the_lock_is_done_by_the_next_run(app: Flask, context: Flask) -> None:
    organization = create_organization(plan="starter@1")
    at = day(1, 2, month=5)
    clock.freeze_time(at)

    def closer() -> CloseResult:
        with app.app_context():
            return period_close.close_due(at)

    with ThreadPoolExecutor(1) as pool, organization.transaction() as session:
        periods.lock_periods_shared(session, organization.id)
        assert pool.submit(closer).result().failed == [organization.id]
    assert organization.rows("SELECT 1 FROM billing_periods WHERE state <> 'open'") == []
    assert len(period_close.close_due(at).invoices) == 1


def test_concurrent_closes_during_calls_lose_and_fail_none(app: Flask, client: FlaskClient, alice: User) -> None:
    organization = BillingOrganization(ids.parse_id("org", alice.organization_id))
    with app.app_context(), organization.transaction() as session:
        periods.ensure_account(session, organization.id)
        subscriptions.change_plan(session, organization.id, "pro", "now", SYSTEM_ACTOR)
    key = make_key(client, alice)
    stop = threading.Event()

    def send() -> list[int]:
        statuses, caller = [], app.test_client()
        while not stop.is_set():
            body = {"to": "+2348012345678", "type": "sms", "message": "Hello"}
            statuses.append(caller.post("/api/v1/messages/send", json=body, headers=key).status_code)
        return statuses

    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(send) for _ in range(3)]
        try:
            with app.app_context():
                for _ in range(8):
                    period_close.close_now(organization.id)
        finally:
            stop.set()
        statuses = [status for run in runs for status in run.result()]
    assert set(statuses) == {202}
    with app.app_context():
        period_close.close_now(organization.id)
        [(billed,)] = organization.rows("SELECT sum(quantity) FROM invoice_lines WHERE kind IN ('usage', 'late_usage')")
        assert billed == len(statuses)
        assert organization.rows(LATE) == []
        [(outside,)] = organization.rows("""SELECT count(*) FROM usage_events e
          JOIN billing_periods p ON p.id = e.billing_period_id
          WHERE e.late_for_period_id IS NULL AND e.occurred_at < p.starts_at""")
        assert outside == 0
