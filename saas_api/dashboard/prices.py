"""Plans and their prices in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from sqlalchemy.orm import Session

from saas_api.billing import bill_inputs, plans
from saas_api.billing.models import BillingPeriod
from saas_api.billing.plans import PlanOffer
from saas_api.billing.rating import bill
from saas_api.billing.rating.bill import RatedPlanVersion
from saas_api.billing.rating.charges import MeterPrice, PriceModel
from saas_api.core import clock, formatting, money
from saas_api.usage import meter_file
from saas_api.usage.meter_file import MeterContent

DAYS_PER_MONTH = timedelta(days=30)


@dataclass(frozen=True)
class PriceTable:
    """Prices of one meter that differ by the value of a dimension.

    rows: value, and its price in words; the last is for every other value
    """

    meter: str
    dimension: str
    rows: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class PricesInWords:
    """The prices of a plan version.

    lines: by meter, included quantity and price, of meters with one price
    unpriced: meters that the version does not price, though another one that is shown does
    """

    lines: Sequence[str]
    tables: Sequence[PriceTable]
    unpriced: Sequence[str]


@dataclass(frozen=True)
class PlanCard:
    """A plan with its prices in words.

    total_minor: cost of a month with the given quantities; None without quantities
    """

    offer: PlanOffer
    prices: PricesInWords
    total_minor: int | None


def list_plan_cards(
    session: Session, quantities: Mapping[str, int] | None = None, currency: str = money.DEFAULT_CURRENCY
) -> list[PlanCard]:
    """Returns the offered plans in order.

    quantities: of one month, by meter
    currency: of the default plan
    """
    now = clock.now()
    month = BillingPeriod(
        starts_at=now, ends_at=now + DAYS_PER_MONTH, nominal_seconds=int(DAYS_PER_MONTH.total_seconds())
    )
    used = {meter: Decimal(quantity) for meter, quantity in (quantities or {}).items()}
    offers = plans.list_offers(session, currency)
    by_code = {offered.meter: offered.content for offer in offers for offered in offer.prices}
    cards = []
    for offer in offers:
        version = offer.version
        inputs = bill_inputs.inputs_for_version(month, version, bill_inputs.given_usage(version, used))
        total = bill.calculate_bill(inputs).total_minor if used else None
        cards.append(PlanCard(offer, describe_prices(version, by_code), total))
    return cards


def describe_prices(version: RatedPlanVersion, by_code: Mapping[str, MeterContent]) -> PricesInWords:
    """The prices of a version, in words.

    by_code: the meters that it and the versions beside it price
    """
    lines, tables = [], []
    for code, price in sorted(version.prices.items(), reverse=True):
        meter = by_code[code]
        if not price.dimension:
            lines += describe_price(meter, price, version.currency)
            continue
        values = sorted(price.by)
        rows = [(value, describe_price(meter, price.by[value], version.currency)) for value in values]
        tables.append(
            PriceTable(
                meter.name, price.dimension, [*rows, ("any other", describe_price(meter, price, version.currency))]
            )
        )
    unpriced = [meter.name for code, meter in sorted(by_code.items()) if code not in version.prices]
    return PricesInWords(lines, tables, unpriced)


def describe_price(meter: MeterContent, price: MeterPrice, currency: str) -> list[str]:
    """Returns a price in words: a line for the included quantity and one for each tier; of one value of a dimension."""
    one, several = meter_file.in_text(meter.singular), meter_file.in_text(meter.plural)
    lines = [f"{_count(price.included_quantity)} {several} included"] if price.included_quantity else []
    more = "more " if lines else ""
    match price.model:
        case PriceModel.PER_UNIT:
            lines.append(f"{formatting.format_unit_price(price.unit_price, currency)} for each {more}{one}")
        case PriceModel.PACKAGE:
            amount = formatting.format_money(price.package_amount_minor, currency)
            lines.append(f"{amount} for every {_count(price.package_size)} {more}{several}")
        case _:
            lines += _steps(price, one, currency)
    if price.max_amount_minor is not None:
        lines.append(f"At most {formatting.format_money(price.max_amount_minor, currency)} for {several}")
    return lines


def _steps(price: MeterPrice, one: str, currency: str) -> list[str]:
    lines, start = [], Decimal(0)
    for tier in price.tiers:
        each = f"{formatting.format_unit_price(tier.unit_price, currency)} for each {one}"
        flat = f", plus {formatting.format_money(tier.flat_minor, currency)}" if tier.flat_minor else ""
        if tier.up_to is None:
            lines.append(f"From {_count(start + 1)}: {each}{flat}")
        else:
            lines.append(f"{_count(start + 1)} to {_count(tier.up_to)}: {each}{flat}")
            start = tier.up_to
    return lines


def _count(quantity: Decimal) -> str:
    text = f"{quantity:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
