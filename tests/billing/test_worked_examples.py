"""The worked examples of docs/billing.md, through the service: every figure of the book is what the product writes."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import jobs, periods, plans, subscriptions, wallet
from saas_api.billing.rating import charges, period_grid
from saas_api.billing.rating.charges import MeterPrice, Tier
from saas_api.billing.rating.period_grid import MIN_PERIOD
from saas_api.billing.wallet import GrantSource
from saas_api.core import clock, ids, money
from saas_api.payments import checkout, payments
from saas_api.payments.checkout import PaymentRequest
from saas_api.payments.dunning_schedule import DUNNING_SCHEDULE
from saas_api.usage.ledger import UsageRecord
from tests.support.billing import Company, day, found
from tests.support.billing_actions import ACT, close, credit, system
from tests.support.billing_examples import Step, instant, minor, number, stories, table

pytestmark = pytest.mark.usefixtures("context")
METERS = ("sms", "email")
PRICE_HEADS = ("sms included", "sms, per segment", "e-mails included", "e-mail, per message")
STORIES = stories()
ELSEWHERE = {"23"}  # it takes calls: test_capped_example.py


class Teller:
    """Plays a story on one company and says what stands in its books."""

    def __init__(self) -> None:
        self.company: Company
        self.used: list[UsageRecord] = []
        self.canceled = ""

    def play(self, step: Step) -> None:
        clock.freeze_time(step.at)
        for pattern, act in ACTS.items():
            if match := re.fullmatch(pattern, step.act):
                act(self, *match.groups())
                return
        raise AssertionError(f"nobody knows how to play: {step.act}")

    def sign_up(self, plan: str, zone: str | None) -> None:
        self.company = found(at=clock.now(), plan=f"{plan}@1", zone=zone or "UTC")

    def change(self, plan: str) -> None:
        with self.company.transaction() as session:
            subscriptions.change_plan(session, self.company.id, plan, "now", SYSTEM_ACTOR)

    def use(self, sms: str, emails: str | None, happened: str | None) -> None:
        at = instant(f"{happened} 00:00") if happened else clock.now()
        for meter, quantity in zip(METERS, (sms, emails), strict=True):
            if quantity:
                event_id = ids.new_id()
                event = UsageRecord(event_id, "story", str(event_id), meter, number(quantity), at)
                with self.company.transaction() as session:
                    periods.record_usage(session, self.company.id, event)
                self.used.append(event)

    def fail(self) -> None:
        self.company.reverse(self.used[-1])

    def move(self, zone: str) -> None:
        with system() as session:
            session.execute(MOVE, {"zone": zone, "id": self.company.id})

    def close(self) -> None:
        close(self.company, clock.now())

    def tick(self) -> None:
        jobs.close_periods()

    def credit(self, amount: str) -> None:
        credit(self.company, self.newest().id, amount_minor=minor(amount))

    def pay(self, amount: str) -> None:
        """The provider says that it has taken this much, whatever was asked."""
        self._capture(self._open(), amount)

    def cancel(self) -> None:
        self.canceled = self._open()
        self._say(self.canceled, "canceled", 0)

    def pay_canceled(self, amount: str) -> None:
        self._capture(self.canceled, amount)

    def _open(self) -> str:
        wanted = PaymentRequest(self.newest().id, provider="mock")
        payment = checkout.initiate_payment(self.company.id, wanted, SYSTEM_ACTOR)
        assert payment.amount_minor == self.newest().due_minor
        return str(payment.provider_reference)

    def _capture(self, reference: str, amount: str) -> None:
        self._say(reference, "paid", minor(amount))

    def _say(self, reference: str, state: str, captured_minor: int) -> None:
        with system() as session:
            session.execute(SAY, {"reference": reference, "state": state, "captured": captured_minor})
        payments.settle_payment("mock", reference)

    def payment(self) -> str:
        [*_, newest] = self.company.rows("SELECT state FROM payments ORDER BY created_at")
        return str(newest.state)

    def grant(self, amount: str, kind: str) -> None:
        with system() as session:
            wallet.grant_credit(session, self.company.id, GrantSource(kind, kind), minor(amount), ACT)

    def newest(self) -> Any:
        return self.company.invoices()[-1]

    def check(self, facts: tuple[str, ...]) -> None:
        """Every fact holds; lines, once one is named, are all of them."""
        lines = {fact.rpartition(" ")[0]: minor(fact.rpartition(" ")[2]) for fact in facts if LINE.fullmatch(fact)}
        if lines:
            assert self.lines() == lines
        for fact in facts:
            if not LINE.fullmatch(fact):
                name, _, told = fact.partition(" ")
                assert (name, FACTS[name](self)) == (name, told)

    def lines(self) -> dict[str, int]:
        """Amounts of the newest invoice's lines, by the names that the book gives them."""
        names: dict[str, int] = {}
        for key, amount in self.company.lines().items():
            kind, *rest = key.split(":")
            plan = rest[1 if kind == "late" else 0].partition("@")[0] if rest else ""
            meter = rest[-1] if kind in {"usage", "late"} else ""
            words = {"usage": f"{meter} {plan}", "late": f"late {meter} {plan}", "carry": "carry"}
            names[words.get(kind, f"{kind} {plan}")] = amount
        return names

    def period(self) -> str:
        *_, period = self.company.rows("SELECT * FROM billing_periods ORDER BY seq")
        hours = int((period.ends_at - period.starts_at).total_seconds()) // 3600
        whole = period.nominal_seconds // 3600
        ends = " to ".join(f"{at.day} {at:%B %H:%M}" for at in (period.starts_at, period.ends_at))
        return f"{ends}, {hours} hours" if hours == whole else f"{ends}, {hours} of {whole} hours"

    def wallet(self) -> str:
        [(held,)] = self.company.rows("SELECT coalesce(sum(remaining_minor), 0) FROM credit_grants")
        return text(held)

    def taken(self) -> str:
        entries = self.company.rows("SELECT delta_minor FROM credit_entries ORDER BY delta_minor DESC")
        return ", ".join(text(entry.delta_minor) for entry in entries)


def text(amount_minor: int) -> str:
    return f"{Decimal(amount_minor).scaleb(-2):.2f}"


def of_newest(column: str) -> Callable[[Teller], str]:
    return lambda teller: text(getattr(teller.newest(), column))


def in_state(state: str) -> Callable[[Teller], str]:
    """The name alone is the fact; what follows it is nothing when it is true."""
    return lambda teller: "" if teller.newest().state == state else teller.newest().state


MOVE = sa.text("UPDATE organizations SET timezone = :zone WHERE id = :id")
SAY = sa.text("""UPDATE mock_checkouts SET state = :state, captured_minor = :captured, failure_code = NULL
  WHERE reference = :reference""")
AMOUNT = r"([0-9]+[.][0-9]{2})"
LINE = re.compile(r"(?:base|sms|email|late|minimum|carry)\b.* ?-?[0-9.]+")
ACTS: dict[str, Callable[..., None]] = {
    r"signs up on (\w+)(?: in (\S+))?": Teller.sign_up,
    r"changes to (\w+)": Teller.change,
    r"uses ([0-9,]+) sms(?:, ([0-9,]+) e-mails)?(?: of (\d+ \w+))?": Teller.use,
    r"the last usage fails": Teller.fail,
    r"moves to (\S+)": Teller.move,
    r"the period is closed": Teller.close,
    r"the hourly run": Teller.tick,
    rf"a credit note of {AMOUNT}": Teller.credit,
    rf"{AMOUNT} is paid": Teller.pay,
    rf"{AMOUNT} is captured where 32.05 was asked": Teller.pay,
    r"a checkout is opened and canceled": Teller.cancel,
    rf"{AMOUNT} is paid on the canceled checkout": Teller.pay_canceled,
    rf"gets {AMOUNT} of (\w+) credit": Teller.grant,
}
FACTS: dict[str, Callable[[Teller], str]] = {
    "total": of_newest("total_minor"),
    "due": of_newest("due_minor"),
    "period": Teller.period,
    "wallet": Teller.wallet,
    "credit": Teller.taken,
    "payment": Teller.payment,
    "open": in_state("open"),
    "paid": in_state("paid"),
}


@pytest.mark.parametrize("name", [name for name in STORIES if name not in ELSEWHERE])
def test_documented_example(name: str) -> None:
    teller = Teller()
    for step in STORIES[name]:
        teller.play(step)
        teller.check(step.books)


def test_every_documented_example_is_tested() -> None:
    by_date, by_money = ["10", "11", "12", "13", "15", "16", "17", "18"], ["19a", "19b", "20", "21a", "21b", "22", "23"]
    assert list(STORIES) == by_date + by_money


@pytest.mark.parametrize(
    "row",
    table("plan", "sms", "e-mails", "base", "sms line", "e-mail line", "total"),
    ids=lambda row: " ".join(row[:3]),
)
def test_documented_month_on_one_plan(row: list[str]) -> None:
    plan, *quantities, base, sms, email, total = row
    company = found(plan=f"{plan}@1")
    for meter, quantity in zip(METERS, map(number, quantities), strict=True):
        if quantity:
            company.use(quantity, meter, at=day(10))
    invoice = close(company)
    lines = company.lines()
    keys = (f"base:{plan}@1", *(f"usage:{plan}@1:{meter}" for meter in METERS))
    assert [lines.pop(key, 0) for key in keys] == [minor(amount) for amount in (base, sms, email)]
    assert (lines, invoice.total_minor) == ({}, minor(total))
    assert invoice.state == ("open" if invoice.total_minor else "paid")


@pytest.mark.parametrize("row", table("exact", "on the invoice"), ids=lambda row: row[0])
def test_documented_rounding(row: list[str]) -> None:
    exact, rounded = row
    assert money.round_half_up(Decimal(exact).scaleb(2)) == minor(rounded)


@pytest.mark.parametrize("row", table("zone", "billing day", "from", "periods end at (UTC)"), ids=" ".join)
def test_documented_ends_of_periods(row: list[str]) -> None:
    zone, anchor_day, start, ends = row
    end = instant(start)
    for told in ends.split(", "):
        end = period_grid.next_period_end(end, int(anchor_day), ZoneInfo(zone), MIN_PERIOD)
        assert end == instant(told)


@pytest.mark.parametrize("row", table("price of a meter", "quantity", "amount"), ids=" ".join)
def test_documented_amount_of_a_price(row: list[str]) -> None:
    model, quantity, amount = row
    assert charges.rounded_charge(price_of(model), Decimal(number(quantity))) == minor(amount)


def price_of(words: str) -> MeterPrice:
    if match := re.fullmatch(r"volume: ([\d.]+) to ([\d,]+); then ([\d.]+)", words):
        low, bound, high = match.groups()
        return MeterPrice("volume", tiers=(Tier(Decimal(number(bound)), Decimal(low)), Tier(None, Decimal(high))))
    match = re.fullmatch(r"([\d,]+) included, package of ([\d,]+) for ([\d.]+)", words)
    assert match
    included, size = (Decimal(number(match[n])) for n in (1, 2))
    return MeterPrice("package", included_quantity=included, package_size=size, package_amount_minor=minor(match[3]))


def test_documented_prices_of_plans() -> None:
    company = found()
    with company.transaction() as session:
        offers = plans.get_versions(session, [f"{plan}@1" for plan in ("free", "starter", "pro", "scale")])
    listed = [
        [
            version.id.partition("@")[0],
            text(version.base_amount_minor),
            *(cell for meter in METERS for cell in price_cells(version.prices[meter])),
        ]
        for version in offers.values()
    ]
    assert sorted(listed) == sorted(table("plan", "base a month", *PRICE_HEADS))


def price_cells(price: MeterPrice) -> tuple[str, str]:
    if not price.tiers:
        return f"{price.included_quantity:,.0f}", money.format_unit_price(price.unit_price)
    bounds = [f"{money.format_unit_price(tier.unit_price)} to {tier.up_to:,.0f}" for tier in price.tiers[:-1]]
    return "0", "; ".join([*bounds, f"then {money.format_unit_price(price.tiers[-1].unit_price)}"])


def test_documented_days_of_dunning() -> None:
    told = [(int(day_after), action) for day_after, action, _ in table("day", "action", "what it means")]
    assert told == list(DUNNING_SCHEDULE)
