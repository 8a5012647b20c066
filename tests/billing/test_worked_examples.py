"""The worked examples of docs/billing.md: every figure there equals what the product stores."""

import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.admin import organization_actions
from saas_api.billing import billing_terms, jobs, organization_closing, plans, settlement, subscriptions
from saas_api.billing.models import GrantKind
from saas_api.billing.rating import charges, period_grid
from saas_api.billing.rating.charges import MeterPrice, Tier
from saas_api.billing.rating.period_grid import MIN_PERIOD
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock, ids, money
from saas_api.payments import checkout, payments
from saas_api.payments.checkout import PaymentRequest
from saas_api.payments.dunning_schedule import DUNNING_SCHEDULE
from saas_api.payments.payments import OfflinePayment
from saas_api.usage.ledger import UsageRecord
from tests.support.billing import (
    BillingOrganization,
    create_organization,
    day,
    publish_included_sms,
    publish_meter,
    publish_plan,
    publish_prices,
)
from tests.support.billing_actions import OPERATOR, close_periods, create_credit_note, system_session
from tests.support.billing_examples import (
    Step,
    parse_cents,
    parse_count,
    parse_instant,
    read_examples,
    read_table,
)

pytestmark = pytest.mark.usefixtures("context")
METERS = ("sms", "email")
PRICE_HEADS = ("sms included", "sms, per segment", "emails included", "email, per message")
EXAMPLES = read_examples()
TESTED_BY_CALLS = {"23"}  # test_capped_example.py


class ExampleRun:
    """Performs the steps of an example on one organization and reads their results."""

    def __init__(self) -> None:
        self.organization: BillingOrganization
        self.used: list[UsageRecord] = []
        self.canceled = self.opened = ""

    def perform(self, step: Step) -> None:
        clock.freeze_time(step.at)
        for pattern, perform in ACTIONS.items():
            if match := re.fullmatch(pattern, step.action):
                perform(self, *match.groups())
                return
        raise AssertionError(f"unknown action: {step.action}")

    def sign_up(self, plan: str, zone: str | None) -> None:
        self.organization = create_organization(at=clock.now(), plan=f"{plan}@1", zone=zone or "UTC")

    def publish(self, plan: str, minimum: str) -> None:
        publish_plan(plan, minimum=minimum)

    def publish_meters(self, plan: str, *named: str | None) -> None:
        """Publish a plan that prices meters per unit, given as meters and prices in turn."""
        prices = {}
        for meter, price in zip(named[::2], named[1::2], strict=True):
            if meter and price:
                self.publish_meter(meter)
                prices[meter] = {"model": "per_unit", "unit_price": price}
        publish_prices(plan, prices)

    def publish_models(self, plan: str, small: str, included: str, large: str, others: str) -> None:
        self.publish_meter("tokens")
        default, costly, cheap = ({"model": "per_unit", "unit_price": price} for price in (others, large, small))
        values = {"small": {**cheap, "included": included.replace(",", "")}, "large": costly}
        publish_prices(plan, {"tokens": {"by": {"dimension": "model", "values": values, "default": default}}})

    def publish_meter(self, meter: str) -> None:
        publish_meter(meter, AGGREGATIONS[meter], ["model"] if meter == "tokens" else ())

    def publish_included(self, plan: str, sms: str) -> None:
        publish_included_sms(plan, parse_count(sms))

    def suspend(self) -> None:
        organization_actions.suspend(replace(OPERATOR, reason="under investigation"), self.organization.id)

    def resume(self) -> None:
        organization_actions.resume(replace(OPERATOR, reason="nothing was found"), self.organization.id)

    def close_organization(self) -> None:
        organization_closing.close_organization(self.organization.id, OPERATOR.actor)

    def set_billing_day(self, number: str) -> None:
        with system_session() as session:
            billing_terms.set_billing_terms(session, self.organization.id, OPERATOR, billing_day=int(number))

    def change(self, plan: str) -> None:
        with self.organization.transaction() as session:
            subscriptions.change_plan(session, self.organization.id, plan, "now", SYSTEM_ACTOR)

    def use(self, sms: str, emails: str | None, day_of_usage: str | None) -> None:
        for meter, quantity in zip(METERS, (sms, emails), strict=True):
            if quantity:
                self.record(day_of_usage, meter, parse_count(quantity))

    def use_meter(self, quantity: str, meter: str, model: str | None, day_of_usage: str | None) -> None:
        self.publish_meter(meter)
        self.record(day_of_usage, meter, parse_count(quantity), properties={"model": model} if model else {})

    def use_value(self, value: str, day_of_usage: str | None) -> None:
        self.record(day_of_usage, "people", 1, unique_value=value)

    def record(self, day_of_usage: str | None, meter: str, quantity: int, **fields: Any) -> None:
        at = parse_instant(f"{day_of_usage} 00:00") if day_of_usage else clock.now()
        event_id = ids.new_id()
        event = UsageRecord(event_id, "example", str(event_id), meter, quantity, at, **fields)
        self.organization.record(event)
        self.used.append(event)

    def fail(self) -> None:
        self.organization.reverse(self.used[-1])

    def move(self, zone: str) -> None:
        with system_session() as session:
            session.execute(MOVE, {"zone": zone, "id": self.organization.id})

    def close_periods(self) -> None:
        close_periods(self.organization, clock.now())

    def run_hourly_job(self) -> None:
        jobs.close_periods()

    def create_credit_note(self, amount: str) -> None:
        create_credit_note(self.organization, self.newest().id, amount_minor=parse_cents(amount))

    def pay(self, amount: str) -> None:
        """The provider reports this captured amount, whatever was requested."""
        self._capture(self._open(), amount)

    def cancel(self) -> None:
        self.canceled = self._open()
        self._set_checkout(self.canceled, "canceled", 0)

    def pay_canceled(self, amount: str) -> None:
        self._capture(self.canceled, amount)

    def _open(self) -> str:
        request = PaymentRequest(self.newest().id, provider="mock")
        payment = checkout.initiate_payment(self.organization.id, request, SYSTEM_ACTOR)
        assert payment.amount_minor == self.newest().due_minor
        return str(payment.provider_reference)

    def _capture(self, reference: str, amount: str) -> None:
        self._set_checkout(reference, "paid", parse_cents(amount))

    def _set_checkout(self, reference: str, state: str, captured_minor: int) -> None:
        with system_session() as session:
            session.execute(SET_CHECKOUT, {"reference": reference, "state": state, "captured": captured_minor})
        payments.settle_payment("mock", reference)

    def open_checkout(self) -> None:
        self.opened = self._open()

    def pay_opened(self, amount: str) -> None:
        self._capture(self.opened, amount)

    def record_payment(self, amount: str) -> None:
        received = OfflinePayment(parse_cents(amount), "USD", "MT940 0815")
        first_id = self.organization.invoices()[0].id
        payments.record_offline_payment(self.organization.id, [first_id], received, SYSTEM_ACTOR, "bank transfer")

    def payment(self) -> str:
        [*_, newest] = self.organization.rows("SELECT state FROM payments ORDER BY created_at")
        return str(newest.state)

    def grant(self, amount: str, kind: str, month: str | None) -> None:
        source, minor = GrantSource(f"{kind}:{amount}", GrantKind(kind)), parse_cents(amount)
        expires_at = day(1, month=parse_instant(f"1 {month} 00:00").month + 1) if month else None
        with system_session() as session:
            settlement.grant_credit(session, self.organization.id, source, minor, OPERATOR, expires_at=expires_at)

    def first(self) -> str:
        invoice = self.organization.invoices()[0]
        return f"{invoice.state} {text(invoice.due_minor)}"

    def promotional(self) -> str:
        [(balance,)] = self.organization.rows("""SELECT coalesce(sum(remaining_minor), 0) FROM credit_grants
          WHERE kind = 'promotional'""")
        return text(balance)

    def newest(self) -> Any:
        return self.organization.invoices()[-1]

    def check(self, facts: tuple[str, ...]) -> None:
        """Every fact is true; if lines are listed, the invoice has no other lines."""
        lines = {
            fact.rpartition(" ")[0]: parse_cents(fact.rpartition(" ")[2]) for fact in facts if LINE.fullmatch(fact)
        }
        if lines:
            assert self.lines() == lines
        for fact in facts:
            if not LINE.fullmatch(fact):
                name, _, expected = fact.partition(" ")
                assert (name, FACTS[name](self)) == (name, expected)

    def lines(self) -> dict[str, int]:
        """Amounts of the newest invoice's lines, by their names in the document."""
        names: dict[str, int] = {}
        for key, amount in self.organization.lines().items():
            kind, *rest = key.split(":")
            plan = next((part.removesuffix("@1") for part in rest if "@" in part), "")
            after_plan = rest[next((n for n, part in enumerate(rest) if "@" in part), 0) + 1 :]
            what = " ".join(after_plan) if kind in {"usage", "late"} else {"previous": "rest"}.get(kind, kind)
            is_late = kind == "late" or (kind == "minimum" and len(rest) == 2)
            names[f"{'late ' if is_late else ''}{what} {plan}".strip()] = amount
        return names

    def period(self) -> str:
        *_, period = self.organization.rows("SELECT * FROM billing_periods ORDER BY seq")
        hours = int((period.ends_at - period.starts_at).total_seconds()) // 3600
        whole = period.nominal_seconds // 3600
        ends = " to ".join(f"{at.day} {at:%B %H:%M}" for at in (period.starts_at, period.ends_at))
        return f"{ends}, {hours} hours" if hours == whole else f"{ends}, {hours} of {whole} hours"

    def wallet(self) -> str:
        [(balance,)] = self.organization.rows("SELECT coalesce(sum(remaining_minor), 0) FROM credit_grants")
        return text(balance)

    def applied_credit(self) -> str:
        entries = self.organization.rows("SELECT delta_minor FROM credit_entries ORDER BY delta_minor DESC")
        return ", ".join(text(entry.delta_minor) for entry in entries)


def text(amount_minor: int) -> str:
    return f"{Decimal(amount_minor).scaleb(-2):.2f}"


def of_newest(column: str) -> Callable[[ExampleRun], str]:
    return lambda run: text(getattr(run.newest(), column))


def has_status(status: str) -> Callable[[ExampleRun], str]:
    """A fact without a value; the value is the actual status if it is another one."""
    return lambda run: "" if run.newest().state == status else run.newest().state


MOVE = sa.text("UPDATE organizations SET timezone = :zone WHERE id = :id")
SET_CHECKOUT = sa.text("""UPDATE mock_checkouts SET state = :state, captured_minor = :captured, failure_code = NULL
  WHERE reference = :reference""")
AMOUNT = r"([0-9]+[.][0-9]{2})"
AGGREGATIONS = {meter: kind for meter, kind, _ in read_table("meter", "aggregation", "quantity of a period")}
LINE = re.compile(rf"(?:base|sms|email|{'|'.join(AGGREGATIONS)}|late|minimum|carry|rest)\b.* ?-?[0-9.]+")
ACTIONS: dict[str, Callable[..., None]] = {
    r"signs up on (\w+)(?: in (\S+))?": ExampleRun.sign_up,
    rf"plan (\w+) is published with a minimum of {AMOUNT}, and sms at 0.01": ExampleRun.publish,
    r"(\w+) is published with ([0-9,]+) sms included": ExampleRun.publish_included,
    r"an operator suspends it": ExampleRun.suspend,
    r"an operator resumes it": ExampleRun.resume,
    r"the organization is closed": ExampleRun.close_organization,
    r"the billing day becomes the (\d+)th": ExampleRun.set_billing_day,
    r"changes to (\w+)": ExampleRun.change,
    rf"plan (\w+) is published with (\w+) at {AMOUNT}(?: and (\w+) at {AMOUNT})?": ExampleRun.publish_meters,
    r"plan (\w+) is published with tokens by model: small ([0-9.]+) with ([0-9,]+) included, large ([0-9.]+), "
    r"others ([0-9.]+)": ExampleRun.publish_models,
    r"uses people (\w+)(?: of (\d+ \w+))?": ExampleRun.use_value,
    r"uses ([0-9,]+) sms(?:, ([0-9,]+) emails)?(?: of (\d+ \w+))?": ExampleRun.use,
    r"uses ([0-9,]+) (\w+)(?: of model (\w+))?(?: of (\d+ \w+))?": ExampleRun.use_meter,
    r"the last usage fails": ExampleRun.fail,
    r"moves to (\S+)": ExampleRun.move,
    r"the period is closed": ExampleRun.close_periods,
    r"the hourly run": ExampleRun.run_hourly_job,
    rf"a credit note of {AMOUNT}": ExampleRun.create_credit_note,
    rf"{AMOUNT} is paid": ExampleRun.pay,
    rf"{AMOUNT} is captured where 32.05 was asked": ExampleRun.pay,
    r"a checkout is opened and canceled": ExampleRun.cancel,
    r"a checkout is opened": ExampleRun.open_checkout,
    rf"{AMOUNT} is paid on it": ExampleRun.pay_opened,
    rf"{AMOUNT} is recorded on the first invoice": ExampleRun.record_payment,
    rf"{AMOUNT} is paid on the canceled checkout": ExampleRun.pay_canceled,
    rf"gets {AMOUNT} of (\w+) credit(?: to the end of (\w+))?": ExampleRun.grant,
}
FACTS: dict[str, Callable[[ExampleRun], str]] = {
    "total": of_newest("total_minor"),
    "due": of_newest("due_minor"),
    "period": ExampleRun.period,
    "wallet": ExampleRun.wallet,
    "first": ExampleRun.first,
    "promotional": ExampleRun.promotional,
    "credit": ExampleRun.applied_credit,
    "payment": ExampleRun.payment,
    "open": has_status("open"),
    "paid": has_status("paid"),
}


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in TESTED_BY_CALLS])
def test_documented_example(name: str) -> None:
    run = ExampleRun()
    for step in EXAMPLES[name]:
        run.perform(step)
        run.check(step.result)


def test_every_documented_example_is_tested() -> None:
    periods_and_usage, money_examples = (
        ["10", "11", "12", "13", "15", "24", "25", "16", "17", "18", "26", "27", "28"],
        ["19a", "19b", "19c", "20", "20b", "20c", "21a", "21b", "21c", "22", "22b", "23"],
    )
    other_meters = ["33", "34", "35", "36", "37"]
    lifecycle = ["30", "31", "32"]
    assert list(EXAMPLES) == periods_and_usage + other_meters + money_examples + lifecycle


@pytest.mark.parametrize(
    "row",
    read_table("plan", "sms", "emails", "base", "sms line", "email line", "total"),
    ids=lambda row: " ".join(row[:3]),
)
def test_documented_month_on_one_plan(row: list[str]) -> None:
    plan, *quantities, base, sms, email, total = row
    organization = create_organization(plan=f"{plan}@1")
    for meter, quantity in zip(METERS, map(parse_count, quantities), strict=True):
        if quantity:
            organization.use(quantity, meter, at=day(10))
    invoice = close_periods(organization)
    lines = organization.lines()
    keys = (f"base:{plan}@1", *(f"usage:{plan}@1:{meter}" for meter in METERS))
    assert [lines.pop(key, 0) for key in keys] == [parse_cents(amount) for amount in (base, sms, email)]
    assert (lines, invoice.total_minor) == ({}, parse_cents(total))
    assert invoice.state == ("open" if invoice.total_minor else "paid")


@pytest.mark.parametrize("row", read_table("exact", "on the invoice"), ids=lambda row: row[0])
def test_documented_rounding(row: list[str]) -> None:
    exact, rounded = row
    assert money.round_half_up(Decimal(exact).scaleb(2)) == parse_cents(rounded)


@pytest.mark.parametrize("row", read_table("zone", "billing day", "from", "periods end at (UTC)"), ids=" ".join)
def test_documented_ends_of_periods(row: list[str]) -> None:
    zone, anchor_day, start, ends = row
    end = parse_instant(start)
    for expected in ends.split(", "):
        end = period_grid.next_period_end(end, int(anchor_day), ZoneInfo(zone), MIN_PERIOD)
        assert end == parse_instant(expected)


@pytest.mark.parametrize("row", read_table("price of a meter", "quantity", "amount"), ids=" ".join)
def test_documented_amount_of_a_price(row: list[str]) -> None:
    model, quantity, amount = row
    assert charges.rounded_charge(parse_price(model), Decimal(parse_count(quantity))) == parse_cents(amount)


def parse_price(text: str) -> MeterPrice:
    if match := re.fullmatch(r"volume: ([\d.]+) to ([\d,]+); then ([\d.]+)", text):
        low, bound, high = match.groups()
        return MeterPrice("volume", tiers=(Tier(Decimal(parse_count(bound)), Decimal(low)), Tier(None, Decimal(high))))
    match = re.fullmatch(r"([\d,]+) included, package of ([\d,]+) for ([\d.]+)", text)
    assert match
    included, size = (Decimal(parse_count(match[n])) for n in (1, 2))
    return MeterPrice(
        "package", included_quantity=included, package_size=size, package_amount_minor=parse_cents(match[3])
    )


def test_documented_prices_of_plans() -> None:
    organization = create_organization()
    with organization.transaction() as session:
        offers = plans.get_versions(session, [f"{plan}@1" for plan in ("free", "starter", "pro", "scale")])
    listed = [
        [
            version.id.partition("@")[0],
            text(version.base_amount_minor),
            *(cell for meter in METERS for cell in price_cells(version.prices[meter])),
        ]
        for version in offers.values()
    ]
    assert sorted(listed) == sorted(read_table("plan", "base a month", *PRICE_HEADS))


def price_cells(price: MeterPrice) -> tuple[str, str]:
    if not price.tiers:
        return f"{price.included_quantity:,.0f}", money.format_unit_price(price.unit_price)
    bounds = [f"{money.format_unit_price(tier.unit_price)} to {tier.up_to:,.0f}" for tier in price.tiers[:-1]]
    return "0", "; ".join([*bounds, f"then {money.format_unit_price(price.tiers[-1].unit_price)}"])


def test_documented_days_of_dunning() -> None:
    documented = [(int(day_after), action) for day_after, action, _ in read_table("day", "action", "what it means")]
    assert documented == list(DUNNING_SCHEDULE)
