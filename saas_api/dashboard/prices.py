"""Plans beside each other: what they include, what more costs, and which is the cheapest for given quantities."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from sqlalchemy.orm import Session

from saas_api.billing import bill_inputs, plans
from saas_api.billing.models import BillingPeriod
from saas_api.billing.rating import bill
from saas_api.billing.rating.bill import RatedPlanVersion, UsageQuantity
from saas_api.billing.rating.charges import MeterPrice, PriceModel
from saas_api.core import clock, formatting, money
from saas_api.usage import meter_file
from saas_api.usage.meter_file import MeterContent

DAYS_PER_MONTH = timedelta(days=30)
_RANGE = "\u2013"


@dataclass(frozen=True)
class ComparedPlan:
    """A plan of a comparison.

    rate_limit: calls per minute; None for a plan that is no longer offered
    total_minor: cost of a month with the compared quantities; None without quantities
    """

    code: str
    version: RatedPlanVersion
    rate_limit: int | None
    total_minor: int | None = None

    @property
    def name(self) -> str:
        return self.version.name

    @property
    def currency(self) -> str:
        return self.version.currency


@dataclass(frozen=True)
class PlanRow:
    """A row of a comparison.

    cells: lines of text, by plan; no lines where the plan has none of it
    """

    label: str
    cells: Sequence[Sequence[str]]


@dataclass(frozen=True)
class PlanTable:
    """Plans beside each other.

    cheapest_code: of the plan that costs least for the compared quantities; "" without quantities
    """

    plans: Sequence[ComparedPlan]
    rows: Sequence[PlanRow]
    cheapest_code: str


def compare_offers(
    session: Session,
    quantities: Mapping[str, int] | None = None,
    calls_per_minute: int = 0,
    currency: str = money.DEFAULT_CURRENCY,
) -> PlanTable:
    """Returns the offered plans, with the cost of a month where quantities are given.

    quantities: of one month, by meter
    calls_per_minute: a plan with a lower limit is not the cheapest one
    currency: of the default plan
    """
    used = {meter: Decimal(quantity) for meter, quantity in (quantities or {}).items()}
    compared, by_code = [], {}
    for offer in plans.list_offers(session, currency):
        by_code.update({offered.meter: offered.content for offered in offer.prices})
        usage = bill_inputs.given_usage(offer.version, used)
        total = cost_of_month(offer.version, usage) if used else None
        compared.append(ComparedPlan(offer.code, offer.version, offer.rate_limit, total))
    return tabulate(compared, by_code, calls_per_minute)


def cost_of_month(version: RatedPlanVersion, used: Sequence[UsageQuantity]) -> int:
    """Returns the cost of a month with given quantities on a plan version, in minor units."""
    start = clock.now()
    month = BillingPeriod(
        starts_at=start, ends_at=start + DAYS_PER_MONTH, nominal_seconds=int(DAYS_PER_MONTH.total_seconds())
    )
    return bill.calculate_bill(bill_inputs.inputs_for_version(month, version, used)).total_minor


def tabulate(
    compared: Sequence[ComparedPlan], by_code: Mapping[str, MeterContent], calls_per_minute: int = 0
) -> PlanTable:
    """Returns plans beside each other.

    by_code: every meter that one of them prices
    """
    fees = [formatting.format_money(plan.version.base_amount_minor, plan.currency) for plan in compared]
    rows = [PlanRow("Monthly fee", [[fee] for fee in fees])]
    if any(plan.version.min_spend_minor for plan in compared):
        rows.append(PlanRow("Minimum spend", [_minimum_spend(plan.version) for plan in compared]))
    rows.append(PlanRow("Calls per minute", [_rate_limit(plan) for plan in compared]))
    for code, meter in sorted(by_code.items(), reverse=True):
        rows += _meter_rows(meter, [(plan.version.prices.get(code), plan.currency) for plan in compared])
    return PlanTable(compared, rows, _find_cheapest(compared, calls_per_minute))


def _find_cheapest(compared: Sequence[ComparedPlan], calls_per_minute: int) -> str:
    """Code of the cheapest plan that allows a number of calls per minute, in the currency of the first plan."""
    costs = [
        (plan.total_minor, position)
        for position, plan in enumerate(compared)
        if plan.total_minor is not None
        and plan.currency == compared[0].currency
        and (plan.rate_limit or 0) >= calls_per_minute
    ]
    return compared[min(costs)[1]].code if costs else ""


def _minimum_spend(version: RatedPlanVersion) -> list[str]:
    return [formatting.format_money(version.min_spend_minor, version.currency)] if version.min_spend_minor else []


def _rate_limit(plan: ComparedPlan) -> list[str]:
    return [formatting.format_number(plan.rate_limit)] if plan.rate_limit else []


def _meter_rows(meter: MeterContent, prices: Sequence[tuple[MeterPrice | None, str]]) -> Iterator[PlanRow]:
    """The rows of a meter.

    prices: with their currency, by plan
    """
    included = [price.included_quantity if price and not price.dimension else Decimal(0) for price, _ in prices]
    if any(included):
        cells = [[formatting.format_number(quantity)] if quantity else [] for quantity in included]
        yield PlanRow(f"Included {meter_file.in_text(meter.plural)}", cells)
    label = f"Price per {'additional ' if any(included) else ''}{meter_file.in_text(meter.singular)}"
    yield PlanRow(label, [_all_prices(price, currency) if price else [] for price, currency in prices])


def _all_prices(price: MeterPrice, currency: str) -> list[str]:
    """The lines of a price; where it differs by a dimension, each value has its own, with what it includes."""
    if not price.dimension:
        return describe_price(price, currency)
    lines = []
    for value, own in (*sorted(price.by.items()), ("Other", price)):
        included = [f"{formatting.format_number(own.included_quantity)} included"] if own.included_quantity else []
        lines += [f"{value}: {line}" for line in (*included, *describe_price(own, currency))]
    return lines


def describe_price(price: MeterPrice, currency: str) -> list[str]:
    """Returns what one unit costs beyond the included ones, a line for each tier; of one value of a dimension."""
    match price.model:
        case PriceModel.PER_UNIT:
            lines = [formatting.format_unit_price(price.unit_price, currency)]
        case PriceModel.PACKAGE:
            amount = formatting.format_money(price.package_amount_minor, currency)
            lines = [f"{amount} for every {formatting.format_number(price.package_size)}"]
        case _:
            lines = list(_describe_tiers(price, currency))
    if price.max_amount_minor is not None:
        lines.append(f"At most {formatting.format_money(price.max_amount_minor, currency)} a month")
    return lines


def _describe_tiers(price: MeterPrice, currency: str) -> Iterator[str]:
    start = Decimal(0)
    for tier in price.tiers:
        first = formatting.format_number(start + 1)
        units = f"From {first}" if tier.up_to is None else f"{first}{_RANGE}{formatting.format_number(tier.up_to)}"
        flat = f" plus {formatting.format_money(tier.flat_minor, currency)}" if tier.flat_minor else ""
        yield f"{units}: {formatting.format_unit_price(tier.unit_price, currency)}{flat}"
        start = tier.up_to or start


def list_lowest_prices(table: PlanTable, by_code: Mapping[str, MeterContent]) -> list[tuple[MeterContent, str]]:
    """Returns each meter that is priced by the unit, with the lowest price of a unit on any plan and in any tier."""
    lowest: dict[str, Decimal] = {}
    currency = table.plans[0].currency if table.plans else money.DEFAULT_CURRENCY
    for plan in table.plans:
        for code, price in plan.version.prices.items() if plan.currency == currency else ():
            unit_prices = [tier.unit_price for tier in price.tiers] or [price.unit_price]
            if price.model != PriceModel.PACKAGE and all(unit_prices):
                lowest[code] = min(*unit_prices, lowest.get(code, unit_prices[0]))
    return [
        (by_code[code], f"from {formatting.format_unit_price(price, currency)}")
        for code, price in sorted(lowest.items(), reverse=True)
    ]
