"""Rollups and live reads compared with the ledger, also during writes, rollbacks and concurrent roll-ups."""

import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.usage import jobs, ledger, live_quantities
from saas_api.usage import rollups as usage_rollups
from saas_api.usage.ledger import UsageRecord
from saas_api.usage.rollups import LIVE_USAGE_SQL
from tests.support.large_tables import ROWS, fill_ledger
from tests.support.query_plans import collect_scans
from tests.support.usage import UsageOrganization, sign_up_organization


class Acme:
    """Reads the live quantity and the ledger of an organization's current period."""

    def __init__(self, organization: UsageOrganization) -> None:
        self.organization = organization
        self.period_id: UUID = organization.open_period(clock.now())

    def read_both(self) -> tuple[Decimal, Decimal]:
        """Live quantity and sum of the ledger, in one statement and so from one snapshot."""
        with tenancy.tenant_session(self.organization.id) as session:
            live, ledger_sum = session.execute(
                text(f"""WITH live AS ({LIVE_USAGE_SQL}) SELECT (SELECT coalesce(sum(quantity), 0) FROM live),
                  (SELECT coalesce(sum(quantity), 0) FROM usage_events)"""),
                {"organization_id": self.organization.id},
            ).one()
            return Decimal(live), Decimal(ledger_sum)


@pytest.fixture
def acme(app: Flask, client: FlaskClient) -> Iterator[Acme]:
    organization = sign_up_organization(client)
    with app.app_context():
        yield Acme(organization)


def rollups(organization: UsageOrganization) -> tuple[Decimal, int]:
    with tenancy.tenant_session(organization.id) as session:
        row = session.execute(
            text("SELECT coalesce(sum(quantity), 0), coalesce(sum(event_count), 0)::int FROM usage_rollups")
        ).one()
        return Decimal(row[0]), int(row[1])


def settle(organization: UsageOrganization) -> None:
    """Roll up until no ledger row is left: any transaction of the cluster can delay the watermark."""
    for _ in range(200):
        usage_rollups.roll_up()
        with tenancy.tenant_session(organization.id) as session:
            if session.scalar(
                text("SELECT through_xid > (SELECT max(recorded_xid) FROM usage_events) FROM usage_watermark")
            ):
                return
        time.sleep(0.05)
    pytest.fail("the watermark does not rise")


def test_usage_is_the_same_before_and_after_the_roll_up(acme: Acme) -> None:
    usage_rollups.roll_up()
    acme.organization.use(3)
    assert acme.read_both() == (3, 3)
    assert rollups(acme.organization) == (0, 0)
    jobs.roll_up()
    settle(acme.organization)
    assert rollups(acme.organization) == (3, 1)
    assert acme.read_both() == (3, 3)
    acme.organization.use(2)
    assert acme.read_both() == (5, 5)


def test_repeated_roll_up_counts_each_event_once(acme: Acme) -> None:
    usage_rollups.roll_up()
    acme.organization.use(3)
    settle(acme.organization)
    usage_rollups.roll_up()
    assert rollups(acme.organization) == (3, 1)


def test_roll_up_reads_new_events_and_not_the_whole_ledger(app: Flask, superuser: Any, acme: Acme) -> None:
    """F3: three new events beside 20,000 old ones."""
    fill_ledger(superuser, acme.organization.id)
    usage_rollups.rebuild_rollups()
    for _ in range(3):
        acme.organization.use(5)
    with collect_scans(app, "usage_events") as scans:
        usage_rollups.roll_up()
    settle(acme.organization)
    assert max(scan.rows_read for scan in scans) < ROWS / 10
    assert rollups(acme.organization) == (ROWS + 15, ROWS + 3)


def test_roll_up_without_commit_changes_nothing(acme: Acme) -> None:
    usage_rollups.roll_up()
    acme.organization.use(3)

    with tenancy.system_session("usage.roll_up") as session:
        usage_rollups._add_settled(session, session.execute(usage_rollups._LOCK_WATERMARK).one())
        session.rollback()
    assert rollups(acme.organization) == (0, 0)
    assert acme.read_both() == (3, 3)
    settle(acme.organization)
    assert rollups(acme.organization) == (3, 1)
    assert acme.read_both() == (3, 3)


def test_transaction_open_during_the_roll_up_is_counted_once(acme: Acme) -> None:
    usage_rollups.roll_up()
    acme.organization.use(3)
    with tenancy.tenant_session(acme.organization.id) as early:
        early.execute(text("SELECT pg_current_xact_id()"))
        event = UsageRecord(ids.new_id(), "messages.send", "early", "sms", 4, clock.now())
        sql, values = ledger.append_usage_statement(acme.organization.id, event)
        early.connection().exec_driver_sql(sql, values)
        acme.organization.use(5)
        usage_rollups.roll_up()
        assert acme.read_both() == (8, 8)
    assert acme.read_both() == (12, 12)
    settle(acme.organization)
    assert acme.read_both() == (12, 12)
    assert rollups(acme.organization) == (12, 3)


def test_reversal_lowers_the_quantity_and_keeps_the_request(acme: Acme) -> None:
    usage_rollups.roll_up()
    event = acme.organization.use(3)
    acme.organization.reverse(event)
    assert acme.read_both() == (0, 0)
    settle(acme.organization)
    assert rollups(acme.organization) == (0, 1)
    assert acme.read_both() == (0, 0)


def test_rebuilt_rollups_count_each_event_once(acme: Acme) -> None:
    acme.organization.use(3)
    usage_rollups.roll_up()
    usage_rollups.rebuild_rollups()
    acme.organization.use(4)
    assert acme.read_both() == (7, 7)
    usage_rollups.roll_up()
    assert acme.read_both() == (7, 7)


def test_command_rebuilds_the_rollups(app: Flask, acme: Acme) -> None:
    acme.organization.use(3)
    with tenancy.system_session("usage.roll_up") as session:
        session.execute(text("DELETE FROM usage_rollups"))
    outcome = app.test_cli_runner().invoke(args=["usage", "rebuild"])
    assert outcome.exit_code == 0, outcome.output
    assert rollups(acme.organization) == (3, 1)


def test_rollups_are_rebuilt_in_another_database_cluster(acme: Acme) -> None:
    acme.organization.use(3)
    usage_rollups.roll_up()
    with tenancy.system_session("usage.roll_up") as session:
        session.execute(text("UPDATE usage_watermark SET system_identifier = 1, through_xid = 9000000000000"))
    acme.organization.use(2)
    usage_rollups.roll_up()
    assert acme.read_both() == (5, 5)


def test_late_usage_belongs_to_the_period_that_pays(acme: Acme) -> None:
    organization = acme.organization
    with tenancy.tenant_session(organization.id) as session:
        ends_at = session.scalar(text("SELECT ends_at FROM billing_periods ORDER BY seq LIMIT 1"))
    happened_at = clock.now()
    organization.use(3, at=happened_at)
    next_id = organization.open_period(ends_at)
    organization.close_period(acme.period_id)
    organization.use(2, at=happened_at, is_late=True)
    for _ in range(2):
        with tenancy.tenant_session(organization.id) as session:
            assert live_quantities.get_totals(session, organization.id, acme.period_id) == {"sms": 3}
            assert live_quantities.get_totals(session, organization.id, next_id) == {"sms": 2}
        usage_rollups.roll_up()


def test_usage_equals_the_ledger_while_events_and_roll_ups_run(app: Flask, acme: Acme) -> None:
    stop = threading.Event()
    failures: list[Exception] = []
    reads: list[tuple[Decimal, Decimal]] = []

    def repeat(call: Callable[[], Any]) -> None:
        try:
            with app.app_context():
                while not stop.is_set():
                    call()
        except Exception as failure:  # noqa: BLE001 - a thread hands its error to the test
            failures.append(failure)

    def roll_back() -> None:
        event = UsageRecord(ids.new_id(), "messages.send", str(ids.new_id()), "sms", 1, clock.now())
        sql, values = ledger.append_usage_statement(acme.organization.id, event)
        with tenancy.tenant_session(acme.organization.id) as session:
            session.connection().exec_driver_sql(sql, values)
            session.rollback()

    calls = [
        acme.organization.use,
        acme.organization.use,
        roll_back,
        lambda: reads.append(acme.read_both()),
        usage_rollups.roll_up,
    ]
    threads = [threading.Thread(target=repeat, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    stop.wait(3)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [read for read in reads if read[0] != read[1]] == []
    assert len(reads) > 10
    assert reads[-1][0] > 0
    settle(acme.organization)
    assert rollups(acme.organization)[0] == acme.organization.ledger_sum()
