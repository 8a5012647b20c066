"""Usage recorded late or early: the period it happened in pays while it is open, the running one afterwards."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from saas_api.billing import periods
from saas_api.core import clock, ids
from saas_api.core.errors import ValidationFailed
from saas_api.usage.ledger import UsageRecord
from tests.support.billing import Company, day, found
from tests.support.billing_actions import close

pytestmark = pytest.mark.usefixtures("context")
MARCH_CLOSED = day(1, 2)


def record(company: Company, at: datetime, quantity: int = 1, key: str | None = None) -> None:
    event_id = ids.new_id()
    event = UsageRecord(event_id, "calls", key or str(event_id), "sms", Decimal(quantity), at)
    with company.transaction() as session:
        periods.record_usage(session, company.id, event)


def owners(company: Company) -> list[tuple[int, int | None]]:
    """The period that pays for each event and the one it is late for, by their numbers."""
    rows = company.rows("""SELECT p.seq, l.seq FROM usage_events e JOIN billing_periods p ON p.id = e.billing_period_id
      LEFT JOIN billing_periods l ON l.id = e.late_for_period_id ORDER BY e.recorded_at""")
    return [tuple(row) for row in rows]


def refused(company: Company, at: datetime, **changes: Any) -> str:
    with pytest.raises(ValidationFailed) as refusal:
        record(company, at, **changes)
    assert company.rows("SELECT 1 FROM usage_events") == []
    return str(refusal.value.details["fields"][0]["field"])


def test_period_in_grace_pays_for_its_usage() -> None:
    company = found(at=day(1, month=3))
    clock.freeze_time(day(1) + timedelta(minutes=30))
    record(company, day(31, 23, month=3))
    record(company, clock.now())
    assert owners(company) == [(1, None), (2, None)]


def test_usage_of_a_closed_period_is_paid_by_the_current_one() -> None:
    company = found(at=day(1, month=2))
    close(company, day(1, 2, month=3))
    clock.freeze_time(day(1) + timedelta(minutes=30))
    record(company, day(26, month=2))
    assert owners(company) == [(3, 1)]


def test_late_usage_is_accepted_for_35_days() -> None:
    company = found(at=day(1, month=3))
    close(company, MARCH_CLOSED)
    clock.freeze_time(day(25))
    assert refused(company, day(25) - timedelta(days=35, seconds=1)) == "occurred_at"
    record(company, day(25) - timedelta(days=35))
    assert owners(company) == [(2, 1)]


def test_old_usage_of_an_open_period_is_accepted() -> None:
    company = found(at=day(1, month=3))
    clock.freeze_time(day(20))
    record(company, day(1, month=3))
    assert owners(company) == [(1, None)]


def test_usage_of_the_future_or_before_the_account_is_rejected() -> None:
    company = found(at=day(10))
    assert refused(company, day(10) + timedelta(minutes=5, seconds=1)) == "occurred_at"
    assert refused(company, day(10) - timedelta(seconds=1)) == "occurred_at"
    record(company, day(10) + timedelta(minutes=5))


@pytest.mark.parametrize("quantity", [0, -1])
def test_usage_of_zero_or_less_is_rejected(quantity: int) -> None:
    company = found()
    assert refused(company, day(1), quantity=quantity) == "quantity"


def test_usage_with_a_repeated_key_counts_once() -> None:
    company = found()
    record(company, day(1), key="order-1")
    with pytest.raises(IntegrityError):
        record(company, day(1), key="order-1")
    assert len(owners(company)) == 1


def test_late_usage_in_parts_costs_as_much_as_at_once() -> None:
    company = found(at=day(1, month=3), plan="scale@1")
    record(company, day(1, month=3), 99_990)
    close(company, MARCH_CLOSED)
    for quantity in (10, 10):
        record(company, day(20, month=3), quantity)
    close(company, day(1, 2, month=5))
    assert [amount for key, amount in company.lines().items() if key.startswith("late:")] == [7]
