"""Meters that do not add up: the highest, the last and the number of distinct values, from call to invoice."""

from decimal import Decimal
from typing import Any

import pytest

from saas_api.billing import current_period, invariants, invoices, period_spend, previews
from saas_api.core import clock
from saas_api.usage import live_quantities, rollups
from tests.support.billing import BillingOrganization, create_organization, day, publish_meter, publish_prices
from tests.support.billing_actions import close_periods, create_credit_note

pytestmark = pytest.mark.usefixtures("context")
ONE_EACH = {"model": "per_unit", "unit_price": "1"}
METERS = {"peak": "max", "seats": "latest", "people": "unique", "calls": "count"}


@pytest.fixture
def acme() -> BillingOrganization:
    """An organization in April, whose plan charges 1.00 for each unit of every kind of meter."""
    for code, aggregation in METERS.items():
        publish_meter(code, aggregation)
    return create_organization(plan=publish_prices("every", dict.fromkeys(METERS, ONE_EACH)))


def usage_lines(organization: BillingOrganization) -> dict[str, tuple[Decimal, int]]:
    """Quantity and cents of each line of the newest invoice, by its meter."""
    return {
        row.meter_code: (row.quantity, row.amount_minor)
        for row in organization.rows("""SELECT * FROM invoice_lines WHERE meter_code IS NOT NULL
          AND invoice_id = (SELECT id FROM invoices ORDER BY serial DESC LIMIT 1)""")
    }


def close_april(organization: BillingOrganization) -> Any:
    return close_periods(organization, day(1, 2, month=5))


def use_everything(organization: BillingOrganization) -> None:
    """A peak of 9, 3 seats at the end, 2 people in 3 calls."""
    for number, (peak, seats, person) in enumerate([(4, 7, "ann"), (9, 5, "ben"), (2, 3, "ann")], start=2):
        organization.use(peak, "peak", at=day(number))
        organization.use(seats, "seats", at=day(number))
        organization.use(1, "people", at=day(number), unique_value=person)
        organization.use(1, "calls", at=day(number))


def test_each_aggregation_bills_its_quantity(acme: BillingOrganization) -> None:
    use_everything(acme)
    close_april(acme)
    assert usage_lines(acme) == {"peak": (9, 900), "seats": (3, 300), "people": (2, 200), "calls": (3, 300)}
    assert not [result for result in invariants.check_invariants() if result.violations]


def test_reversed_events_do_not_count(acme: BillingOrganization) -> None:
    for quantity in (4, 9):
        peak, seats = (acme.use(quantity, meter, at=day(quantity)) for meter in ("peak", "seats"))
        person = acme.use(1, "people", at=day(2), unique_value=str(quantity))
    for event in (peak, seats, person):
        acme.reverse(event)
    close_april(acme)
    assert usage_lines(acme) == {"peak": (4, 400), "seats": (4, 400), "people": (1, 100)}


def test_last_of_two_events_at_one_instant_is_the_one_recorded_last(acme: BillingOrganization) -> None:
    for quantity in (5, 8, 6):
        acme.use(quantity, "seats", at=day(3))
    acme.use(9, "seats", at=day(2))
    close_april(acme)
    assert usage_lines(acme)["seats"] == (6, 600)


def test_each_plan_version_counts_its_own_events(acme: BillingOrganization) -> None:
    other = publish_prices("other", {meter: {"model": "per_unit", "unit_price": "10"} for meter in METERS})
    acme.switch(other, day(3))
    use_everything(acme)
    close_april(acme)
    lines = {key: amount for key, amount in acme.lines().items() if "calls" not in key}
    assert lines == {
        "usage:every@1:peak": 400,
        "usage:every@1:people": 100,
        "usage:every@1:seats": 700,
        "usage:other@1:peak": 9_000,
        "usage:other@1:people": 2_000,
        "usage:other@1:seats": 3_000,
    }


@pytest.mark.parametrize("is_rolled_up", [False, True])
def test_preview_spend_and_simulation_agree_with_the_invoice(acme: BillingOrganization, *, is_rolled_up: bool) -> None:
    use_everything(acme)
    acme.use(500, "sms", at=day(5))
    if is_rolled_up:
        rollups.rebuild_rollups()
    clock.freeze_time(day(20))
    with acme.transaction() as session:
        running = current_period.read_current_period(session, acme.id)
        [(period_id,)] = acme.rows("SELECT id FROM billing_periods WHERE seq = 1")
        spent = period_spend.get_period_spend(session, acme.id, period_id)
        [simulated] = previews.simulate_plans(session, acme.id, ["every"])
        live = live_quantities.get_totals(session, acme.id, period_id)
    invoice = close_april(acme)
    assert invoice.total_minor == 1_700
    assert {running.bill.total_minor, simulated.total_minor, spent.total} == {1_700}
    assert live == spent.metered == {"peak": 9, "seats": 3, "people": 2, "calls": 3, "sms": 500}


@pytest.mark.parametrize(
    ("meter", "late", "expected"),
    [
        ("peak", (7, day(3)), {}),
        ("peak", (12, day(3)), {"peak": (3, 300)}),
        ("seats", (50, day(3)), {}),
        ("seats", (1, day(28)), {"seats": (-2, -200)}),
        ("people", ("ann", day(3)), {}),
        ("people", ("eve", day(3)), {"people": (1, 100)}),
    ],
)
def test_late_usage_costs_what_its_period_would_have_cost_more(
    acme: BillingOrganization, meter: str, late: tuple[Any, Any], expected: dict[str, tuple[int, int]]
) -> None:
    """A late event below the maximum, before the last one or with a known value costs nothing."""
    use_everything(acme)
    close_april(acme)
    value, at = late
    unique = {"unique_value": value} if meter == "people" else {}
    acme.use(1 if unique else value, meter, at=at, is_late=True, **unique)
    acme.use(10, "calls", at=day(1, 3, month=5))
    close_periods(acme, day(1, 2, month=6))
    late_lines = {
        row.meter_code: (row.quantity, row.amount_minor)
        for row in acme.rows("SELECT * FROM invoice_lines WHERE kind = 'late_usage'")
    }
    assert late_lines == expected


def test_reversal_of_the_highest_event_returns_the_difference_once(acme: BillingOrganization) -> None:
    events = [acme.use(quantity, "peak", at=day(quantity)) for quantity in (4, 9)]
    close_april(acme)
    acme.reverse(events[1])
    close_periods(acme, day(1, 2, month=6))
    assert usage_lines(acme) == {"peak": (-5, -500)}
    acme.reverse(events[0])
    close_periods(acme, day(1, 2, month=7))
    assert usage_lines(acme) == {"peak": (-4, -400)}


def test_credit_note_and_reversal_return_nothing_twice(acme: BillingOrganization) -> None:
    event = acme.use(9, "peak", at=day(2))
    invoice = close_april(acme)
    create_credit_note(acme, invoice.id, amount_minor=600)
    acme.reverse(event)
    close_periods(acme, day(1, 2, month=6))
    assert usage_lines(acme) == {"peak": (-9, -300)}


def test_line_explains_how_it_counted_and_lists_every_event(acme: BillingOrganization) -> None:
    use_everything(acme)
    invoice = close_april(acme)
    steps = {}
    with acme.transaction() as session:
        for line in invoices.list_lines(session, acme.id, invoice.id):
            if line.meter_code in METERS:
                explained = invoices.explain_line(session, acme.id, invoice.id, line.id)
                steps[line.meter_code] = explained.explained.steps[0]
                assert (explained.counted.events, explained.counted.quantity) == (3, line.quantity)
                assert explained.explained.recomputed_minor == line.amount_minor
                events = invoices.iter_line_event_rows(invoices.line_slice(explained.invoice, line))
                assert len(list(events)) == 3
    assert steps == {
        "peak": "9 units counted, the highest quantity of any event; none is included, all are charged.",
        "seats": "3 units counted, the quantity of the last event; none is included, all are charged.",
        "people": "2 units counted, each value once; none is included, all are charged.",
        "calls": "3 units counted; none is included, all are charged.",
    }


def test_usage_of_a_meter_without_a_price_is_on_the_bill_and_costs_nothing(acme: BillingOrganization) -> None:
    publish_meter("maps")
    acme.use(12, "maps", at=day(2))
    clock.freeze_time(day(20))
    with acme.transaction() as session:
        running = current_period.read_current_period(session, acme.id)
    invoice = close_april(acme)
    [line] = acme.rows("SELECT * FROM invoice_lines")
    assert (line.description, line.quantity, line.amount_minor) == ("Maps, Every plan (not priced)", 12, 0)
    assert [(one.description, one.amount_minor) for one in running.lines] == [(line.description, 0)]
    with acme.transaction() as session:
        explained = invoices.explain_line(session, acme.id, invoice.id, line.id)
    assert explained.explained.steps == (
        "12 units counted.",
        "The plan has no price for this meter: its usage is recorded and costs nothing.",
    )
    acme.use(3, "maps", at=day(3), is_late=True)
    close_periods(acme, day(1, 2, month=6))
    [line] = acme.rows("SELECT * FROM invoice_lines WHERE kind = 'late_usage'")
    assert (line.description, line.amount_minor) == ("Maps recorded after its period was closed (not priced)", 0)
    assert not [result for result in invariants.check_invariants() if result.violations]


def test_late_usage_of_an_earlier_period_is_no_quantity_of_the_current_one(acme: BillingOrganization) -> None:
    """Of a sum it is, because the current period pays for it; a peak of April is no peak of May."""
    close_april(acme)
    acme.use(9, "peak", at=day(3), is_late=True)
    acme.use(1, "calls", at=day(3), is_late=True)
    clock.freeze_time(day(3, month=5))
    [(period_id,)] = acme.rows("SELECT id FROM billing_periods WHERE seq = 2")
    with acme.transaction() as session:
        spent = period_spend.get_period_spend(session, acme.id, period_id)
        assert spent.metered == live_quantities.get_totals(session, acme.id, period_id) == {"peak": 0, "calls": 1}
    assert spent.charge == 900 + 100
