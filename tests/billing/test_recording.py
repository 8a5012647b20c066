"""Usage that is recorded late or early: it is billed in its own period while that is open, else in the current one."""

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy.exc import IntegrityError

from saas_api.core import clock, ids
from saas_api.usage.ledger import UsageRecord
from tests.support.billing import BillingOrganization, create_organization, day
from tests.support.billing_actions import close_periods

pytestmark = pytest.mark.usefixtures("context")
MARCH_CLOSED = day(1, 2)


def record(organization: BillingOrganization, at: datetime, quantity: int = 1, key: str | None = None) -> None:
    event_id = ids.new_id()
    organization.record(UsageRecord(event_id, "calls", key or str(event_id), "sms", Decimal(quantity), at))


def owners(organization: BillingOrganization) -> list[tuple[int, int | None]]:
    """Numbers of the period that bills each event and of the one it is late for."""
    rows = organization.rows("""SELECT p.seq, l.seq
      FROM usage_events e JOIN billing_periods p ON p.id = e.billing_period_id
      LEFT JOIN billing_periods l ON l.id = e.late_for_period_id ORDER BY e.recorded_at""")
    return [tuple(row) for row in rows]


def test_period_in_grace_pays_for_its_usage() -> None:
    organization = create_organization(at=day(1, month=3))
    clock.freeze_time(day(1) + timedelta(minutes=30))
    record(organization, day(31, 23, month=3))
    record(organization, clock.now())
    assert owners(organization) == [(1, None), (2, None)]


def test_usage_of_a_closed_period_is_paid_by_the_current_one() -> None:
    organization = create_organization(at=day(1, month=2))
    close_periods(organization, day(1, 2, month=3))
    clock.freeze_time(day(1) + timedelta(minutes=30))
    record(organization, day(26, month=2))
    assert owners(organization) == [(3, 1)]


def test_old_usage_of_an_open_period_is_accepted() -> None:
    organization = create_organization(at=day(1, month=3))
    clock.freeze_time(day(20))
    record(organization, day(1, month=3))
    assert owners(organization) == [(1, None)]


def test_usage_with_a_repeated_key_counts_once() -> None:
    organization = create_organization()
    record(organization, day(1), key="order-1")
    with pytest.raises(IntegrityError):
        record(organization, day(1), key="order-1")
    assert len(owners(organization)) == 1


def test_late_usage_in_parts_costs_as_much_as_at_once() -> None:
    organization = create_organization(at=day(1, month=3), plan="scale@1")
    record(organization, day(1, month=3), 99_990)
    close_periods(organization, MARCH_CLOSED)
    for quantity in (10, 10):
        record(organization, day(20, month=3), quantity)
    close_periods(organization, day(1, 2, month=5))
    assert [amount for key, amount in organization.lines().items() if key.startswith("late:")] == [7]
