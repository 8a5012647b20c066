"""The spend cap: what the gate counts against it, and setting it.

The script in Redis prices nothing. A process works out what a request adds from the quantity Redis told it last, and
names the quantities for which that is right; the script refuses to count for any other and tells the present one. So
the cap is exact however many calls are in flight, at no further round trip while a price holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingProfile
from saas_api.billing.queries import spending
from saas_api.billing.queries.spending import Spent
from saas_api.billing.rules import rating
from saas_api.billing.service.terms import Terms, terms
from saas_api.core.errors import Invalid
from saas_api.core.money import amount_text, exponent, multiply, round_half_up, text_to_minor, unit_price_text
from saas_api.organizations import service as organizations
from saas_api.organizations.service import audit
from saas_api.usage.rules import FAR, QuotaCounter

SPEND = "$spend"
MILLIONTHS = 1_000_000
_NO_CEILING = -1


@dataclass(frozen=True)
class CapState:
    """A cap and what counts against it; amounts in minor units.

    action: "block" or "alert"
    ends_at: of the period
    """

    amount_minor: int | None
    action: str
    is_default: bool
    period_id: UUID
    spent: Spent
    currency: str
    ends_at: datetime


def spent_now(session: Session, organization_id: UUID, period_id: UUID) -> Spent:
    """What a period has cost up to now."""
    return spending.spent(session, organization_id, period_id)


def quantity_name(version_id: str, meter: str) -> str:
    """The gate's name for what one meter counted under one plan version."""
    return f"${version_id}:{meter}"


def millionths(minor: Decimal, currency: str) -> int:
    """Minor units in millionths of the currency, as the gate counts money."""
    return round_half_up(multiply(minor, Decimal(MILLIONTHS).scaleb(-exponent(currency))))


def spend_counters(
    terms: Terms, units: Mapping[str, int], told: Mapping[str, int], seed: Spent | None, *, is_final: bool
) -> list[QuotaCounter]:
    """The gate's counters of a request against the cap: quantities first, then money; none without a cap that stops.

    units: what the request adds, by meter
    told: by name, what Redis said last of quantities, in millionths
    seed: what PostgreSQL says, to be counted on from where Redis has nothing
    is_final: do not insist that quantities are still what they were
    """
    if terms.cap is None:
        return []
    counters, money = [], 0
    for meter, amount in sorted(units.items()):
        price = terms.cap.prices.get(meter)
        if price is None or not amount:
            continue
        name = quantity_name(terms.plan_version_id, meter)
        stored = scaled(seed.quantities.get((terms.plan_version_id, meter), Decimal(0))) if seed else 0
        known = told.get(name, stored)
        low, high = (-FAR, FAR) if is_final else _held(price, known, amount)
        more = rating.marginal(price, Decimal(known).scaleb(-6), Decimal(amount))
        money += millionths(more, terms.currency)
        counters.append(QuotaCounter(name, amount * MILLIONTHS, _NO_CEILING, stored, low, high))
    if not counters:
        return []
    ceiling = millionths(Decimal(terms.cap.amount_minor - terms.cap.base_minor), terms.currency)
    used = millionths(seed.charge, terms.currency) if seed else 0
    return [*counters, QuotaCounter(SPEND, money, ceiling, used)]


def spent_text(terms: Terms, used: int) -> str:
    """Base and charge of the period as the wire shows them, unrounded.

    used: the gate's counter, in millionths
    """
    base = Decimal(terms.cap.base_minor if terms.cap else 0).scaleb(-exponent(terms.currency))
    return amount_text(base + Decimal(used).scaleb(-6))


def _held(price: rating.Price, known: int, units: int) -> tuple[int, int]:
    bounds = rating.steady(price, Decimal(known).scaleb(-6), Decimal(units))
    if bounds is None:
        return known, known
    low, high = bounds
    return (-FAR if low is None else scaled(low) + 1), (FAR if high is None else scaled(high))


def scaled(quantity: Decimal) -> int:
    """A quantity in millionths of its unit, as the gate counts it."""
    return int(multiply(quantity, Decimal(MILLIONTHS)))


def cap_state(session: Session, organization_id: UUID) -> CapState:
    """The cap of an organization and what its running period has used.

    raises: NoSuchOrganization
    """
    held = terms(session, organization_id)
    profile = _profile(session, organization_id)
    found = spending.spent(session, organization_id, held.period_id)
    cap = profile.spend_cap_minor, profile.spend_cap_action, profile.spend_cap_is_default
    return CapState(*cap, held.period_id, found, held.currency, held.period_ends_at)


def set_cap(
    session: Session, organization_id: UUID, amount: Decimal | None, action: str, actor: audit.Actor
) -> CapState:
    """Put another cap in force, from the next request on; None removes it.

    amount: in major units
    raises: Invalid below the period's base or what is used, or finer than the currency; NoSuchOrganization
    """
    state = cap_state(session, organization_id)
    minor = None
    if amount is not None:
        try:
            minor = text_to_minor(unit_price_text(amount), state.currency)
        except ValueError as cause:
            raise Invalid.at("amount", f"Not an amount in {state.currency}.") from cause
        if minor < state.spent.base_minor:
            raise Invalid.at("amount", "Must not be below the base amount of the period.")
        if minor < state.spent.total:
            raise Invalid.at("amount", "Must not be below what is used in this period.")
    profile = _profile(session, organization_id)
    before = {"amount_minor": profile.spend_cap_minor, "action": profile.spend_cap_action}
    profile.spend_cap_minor, profile.spend_cap_action, profile.spend_cap_is_default = minor, action, False
    session.flush()
    organizations.changed(session, organization_id)
    changed = {"before": before, "after": {"amount_minor": minor, "action": action}}
    audit.record(session, organization_id, actor, "spend_cap.changed", ("organization", organization_id), changed)
    return replace(state, amount_minor=minor, action=action, is_default=False)


def _profile(session: Session, organization_id: UUID) -> BillingProfile:
    return session.scalars(select(BillingProfile).where(BillingProfile.organization_id == organization_id)).one()
