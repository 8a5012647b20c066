"""The worked examples of billing, through the service: usage in April 2026, UTC, and the invoice it becomes."""

from datetime import datetime

import pytest

from saas_api.billing import service as billing
from saas_api.core import clock
from tests.billing.company import Company, day, found

pytestmark = pytest.mark.usefixtures("context")
MAY = day(1, 2, month=5)


def close(at: datetime = MAY) -> billing.Outcome:
    clock.travel_to(at)
    return billing.close_due(at)


@pytest.mark.parametrize(
    ("plan", "sms", "email", "lines"),
    [
        ("free@1", 1_000, 1_000, [0, 0]),
        ("free@1", 1_001, 1_001, [0, 1]),
        ("free@1", 0, 1_004, [0]),
        ("free@1", 0, 1_005, [1]),
        ("starter@1", 3_050, 12_345, [2900, 1235, 3050]),
        ("starter@1", 305, 0, [2900, 305]),
        ("pro@1", 1_000_001, 0, [9900, 500_001]),
        ("pro@1", 1, 10, [9900, 1, 1]),
        ("scale@1", 100_001, 0, [49_900, 40_000]),
        ("scale@1", 100_002, 0, [49_900, 40_001]),
        ("scale@1", 1_250_000, 2_500_000, [49_900, 85_000, 360_000]),
    ],
)
def test_a_month_on_one_plan(plan: str, sms: int, email: int, lines: list[int]) -> None:
    company = found(plan=plan)
    for meter, quantity in (("sms", sms), ("email", email)):
        if quantity:
            company.use(quantity, meter, at=day(10))
    close()
    [invoice] = company.invoices()
    assert list(company.lines().values()) == lines
    assert invoice.total_minor == sum(lines)
    assert invoice.state == ("open" if invoice.total_minor else "paid")


def test_a_change_of_plan_in_the_middle_of_the_month() -> None:
    company = found(plan="starter@1")
    company.switch("pro@1", day(16))
    close()
    assert company.lines() == {"base:starter@1": 1450, "base:pro@1": 4950}


def test_a_first_month_is_charged_from_sign_up() -> None:
    company = found(at=day(20, 12, month=3), plan="starter@1")
    close(day(1, 2))
    [period] = company.rows("SELECT * FROM billing_periods WHERE seq = 1")
    assert (period.ends_at, period.nominal_seconds) == (day(1), 2_678_400)
    assert company.lines() == {"base:starter@1": 1076}


def test_going_away_from_a_plan_and_back_counts_its_included_units_once() -> None:
    company = found()
    company.use(900, at=day(2))
    company.switch("starter@1", day(11))
    company.switch("free@1", day(21))
    company.use(500, at=day(12))
    company.use(300, at=day(22))
    close()
    assert company.lines() == {"base:starter@1": 967, "usage:free@1:sms": 200, "usage:starter@1:sms": 500}


def late_in_april(company: Company, billed: int, late: int) -> None:
    company.use(billed, at=day(10, month=3))
    close(day(1, 2))
    company.use(late, at=day(20, month=3), is_late=True)
    close()


def test_late_usage_is_paid_by_the_running_period() -> None:
    company = found(at=day(1, month=3))
    late_in_april(company, 1_000, 1)
    [(period_id,)] = company.rows("SELECT id FROM billing_periods WHERE seq = 1")
    assert company.lines() == {f"late:{period_id}:free@1:sms": 1}


def test_late_usage_over_a_tier_is_rated_with_what_was_billed() -> None:
    company = found(at=day(1, month=3), plan="scale@1")
    late_in_april(company, 99_990, 20)
    assert [amount for key, amount in company.lines().items() if key.startswith("late:")] == [7]


def test_usage_taken_back_after_the_bill_becomes_a_grant() -> None:
    company = found(at=day(1, month=3))
    company.use(1_001, at=day(10, month=3))
    failed = company.use(2, at=day(11, month=3))
    close(day(1, 2))
    company.reverse(failed)
    close()
    assert [invoice.total_minor for invoice in company.invoices()] == [3, 0]
    assert list(company.lines().values()) == [-2, 2]
    [grant] = company.rows("SELECT kind, amount_minor, remaining_minor FROM credit_grants")
    assert tuple(grant) == ("carry", 2, 2)


def test_the_wallet_pays_by_priority() -> None:
    company = found(plan="starter@1")
    company.grant(2000, "purchased", 20)
    company.grant(500, "promotional", 5)
    company.use(305, at=day(10))
    close()
    [invoice] = company.invoices()
    assert (invoice.total_minor, invoice.credits_applied_minor, invoice.due_minor) == (3205, 2500, 705)
    assert [row.delta_minor for row in company.rows("SELECT delta_minor FROM credit_entries ORDER BY 1 DESC")] == [
        -500,
        -2000,
    ]
