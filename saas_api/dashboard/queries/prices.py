"""Plans as somebody reads them who has not chosen yet, with what given quantities would cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from sqlalchemy.orm import Session

from saas_api.billing.models import BillingPeriod
from saas_api.billing.queries import catalogue, plans
from saas_api.billing.queries.catalogue import PlanOffer
from saas_api.billing.rules.bill import invoice_draft
from saas_api.billing.rules.rating import Price
from saas_api.core import clock
from saas_api.core.money import minor_to_text, unit_price_text

MONTH = timedelta(days=30)


@dataclass(frozen=True)
class Offered:
    """A plan with its prices in words.

    lines: by meter, what is included and what more costs
    total_minor: of a month with the given quantities; None where none were given
    """

    offer: PlanOffer
    lines: Sequence[str]
    total_minor: int | None


def offered(session: Session, quantities: Mapping[str, int] | None = None) -> list[Offered]:
    """The plans that anybody may choose, in the catalogue's order.

    quantities: by meter, used in one month
    """
    units = catalogue.units(session)
    now = clock.now()
    month = BillingPeriod(starts_at=now, ends_at=now + MONTH, nominal_seconds=int(MONTH.total_seconds()))
    used = {meter: Decimal(quantity) for meter, quantity in (quantities or {}).items()}
    found = []
    for offer in catalogue.offers(session):
        version = offer.version
        lines = [
            line
            for meter, price in sorted(version.prices.items(), reverse=True)
            for line in described(meter, units[meter], price, version.currency)
        ]
        total = invoice_draft(plans.inputs_on(month, version, used)).total_minor if used else None
        found.append(Offered(offer, lines, total))
    return found


def described(meter: str, unit: str, price: Price, currency: str) -> list[str]:
    """A price in words, a line for what is included and each step.

    meter, unit: codes, such as "sms" and "segment"
    """
    thing = f"{NAMES.get(meter, meter)} {unit}s"
    lines = [f"{_count(price.included_quantity)} {thing} included"] if price.included_quantity else []
    more = "more " if lines else ""
    match price.model:
        case "per_unit":
            lines.append(f"{unit_price_text(price.unit_price)} {currency} for each {more}{thing[:-1]}")
        case "package":
            amount = minor_to_text(price.package_amount_minor, currency)
            lines.append(f"{amount} {currency} for every {_count(price.package_size)} {more}{thing}")
        case _:
            lines += _steps(price, thing, currency)
    if price.max_amount_minor is not None:
        lines.append(f"At most {minor_to_text(price.max_amount_minor, currency)} {currency} for {thing}")
    return lines


NAMES = {"sms": "SMS", "email": "e-mail"}


def _steps(price: Price, thing: str, currency: str) -> list[str]:
    lines, start = [], Decimal(0)
    for tier in price.tiers:
        each = f"{unit_price_text(tier.unit_price)} {currency} for each {thing[:-1]}"
        flat = f", plus {minor_to_text(tier.flat_minor, currency)} {currency}" if tier.flat_minor else ""
        if tier.up_to is None:
            lines.append(f"From {_count(start + 1)}: {each}{flat}")
        else:
            lines.append(f"{_count(start + 1)} to {_count(tier.up_to)}: {each}{flat}")
            start = tier.up_to
    return lines


def _count(quantity: Decimal) -> str:
    text = f"{quantity:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
