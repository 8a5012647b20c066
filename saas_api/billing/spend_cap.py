"""Spend cap state, its gate counters, their reconciliation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from saas_api.accounts import audit, organizations
from saas_api.accounts.audit import Actor
from saas_api.billing import period_spend, terms
from saas_api.billing.models import BillingProfile
from saas_api.billing.period_spend import PeriodSpend
from saas_api.billing.rating import charges
from saas_api.billing.rating.charges import MeterPrice
from saas_api.billing.terms import ServiceTerms
from saas_api.core import money
from saas_api.core.errors import ValidationFailed
from saas_api.core.limits import counters
from saas_api.core.limits.limiter import RedisUnavailable
from saas_api.core.observability import get_logger
from saas_api.usage.quotas import MAX_COUNTER_VALUE, MeterQuota

log = get_logger(__name__)


def reconcile_counters(session: Session, organization_id: UUID, period_id: UUID, known: PeriodSpend) -> None:
    """Correct the counters of a period: quotas of meters, quantities and money; without Redis nothing is corrected.

    known: what was read of the period just now, to see whether anything is to be done
    """
    names = sorted(_database_values(known))
    keys = [counters.counter_key(organization_id, period_id, name) for name in names]
    try:
        before = counters.read_counters(keys)
        if all(value in (None, _database_values(known)[name]) for name, value in zip(names, before, strict=True)):
            return
        truth = _database_values(period_spend.get_period_spend(session, organization_id, period_id))
        for name, key, first, last in zip(names, keys, before, counters.read_counters(keys), strict=True):
            if first is not None and last is not None:
                _correct(key, first, truth.get(name, 0), last)
    except RedisUnavailable:
        log.warning("counters_uncorrected", organization_id=str(organization_id))


def _correct(key: str, before: int, truth: int, after: int) -> None:
    if truth > after:
        counters.adjust_counter(key, truth - after)
        return
    excess = max(0, before - truth)
    lasting = min(excess, counters.exchange_previous_excess(key, excess))
    if lasting:
        counters.adjust_counter(key, -lasting)
        counters.exchange_previous_excess(key, 0)


def _database_values(spent: PeriodSpend) -> Mapping[str, int]:
    used = {meter: int(quantity) for meter, quantity in spent.metered.items()}
    used |= {quantity_counter_name(spent.version.id, meter): 0 for meter in spent.version.prices}
    for (version_id, meter), quantity in spent.quantities.items():
        used[quantity_counter_name(version_id, meter)] = quantity_to_micro_units(max(quantity, Decimal(0)))
    used[SPEND_COUNTER] = max(0, to_micro_units(spent.charge, spent.version.currency))
    return used


SPEND_COUNTER = "$spend"
MICRO_UNITS = 1_000_000
_UNLIMITED = -1


@dataclass(frozen=True)
class SpendCapState:
    """A cap and what counts against it; amounts in minor units.

    action: "block" or "alert"
    ends_at: of the period
    """

    amount_minor: int | None
    action: str
    is_default: bool
    period_id: UUID
    spent: PeriodSpend
    currency: str
    ends_at: datetime


def get_current_spend(session: Session, organization_id: UUID, period_id: UUID) -> PeriodSpend:
    """What a period has cost up to now."""
    return period_spend.get_period_spend(session, organization_id, period_id)


def quantity_counter_name(version_id: str, meter: str) -> str:
    """The gate's name for what one meter counted under one plan version."""
    return f"${version_id}:{meter}"


def to_micro_units(minor: Decimal, currency: str) -> int:
    """Minor units in millionths of the currency, as the gate counts money."""
    return money.round_half_up(
        money.multiply_exact(minor, Decimal(MICRO_UNITS).scaleb(-money.currency_exponent(currency)))
    )


def spend_counters(
    terms: ServiceTerms, units: Mapping[str, int], told: Mapping[str, int], seed: PeriodSpend | None, *, is_final: bool
) -> list[MeterQuota]:
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
        name = quantity_counter_name(terms.plan_version_id, meter)
        stored = quantity_to_micro_units(seed.quantities.get((terms.plan_version_id, meter), Decimal(0))) if seed else 0
        known = told.get(name, stored)
        low, high = (-MAX_COUNTER_VALUE, MAX_COUNTER_VALUE) if is_final else _cap_text(price, known, amount)
        more = charges.marginal_charge(price, Decimal(known).scaleb(-6), Decimal(amount))
        money += to_micro_units(more, terms.currency)
        counters.append(MeterQuota(name, amount * MICRO_UNITS, _UNLIMITED, stored, low, high))
    if not counters:
        return []
    ceiling = to_micro_units(Decimal(terms.cap.amount_minor - terms.cap.base_minor), terms.currency)
    used = to_micro_units(seed.charge, terms.currency) if seed else 0
    return [*counters, MeterQuota(SPEND_COUNTER, money, ceiling, used)]


def spend_text(terms: ServiceTerms, used: int) -> str:
    """Base and charge of the period as the wire shows them, unrounded.

    used: the gate's counter, in millionths
    """
    base = Decimal(terms.cap.base_minor if terms.cap else 0).scaleb(-money.currency_exponent(terms.currency))
    return money.format_exact_amount(base + Decimal(used).scaleb(-6))


def _cap_text(price: MeterPrice, known: int, units: int) -> tuple[int, int]:
    bounds = charges.constant_marginal_range(price, Decimal(known).scaleb(-6), Decimal(units))
    if bounds is None:
        return known, known
    low, high = bounds
    return (-MAX_COUNTER_VALUE if low is None else quantity_to_micro_units(low) + 1), (
        MAX_COUNTER_VALUE if high is None else quantity_to_micro_units(high)
    )


def quantity_to_micro_units(quantity: Decimal) -> int:
    """A quantity in millionths of its unit, as the gate counts it."""
    return int(money.multiply_exact(quantity, Decimal(MICRO_UNITS)))


def get_cap_state(session: Session, organization_id: UUID) -> SpendCapState:
    """The cap of an organization and what its running period has used.

    raises: NoSuchOrganization
    """
    held = terms.get_terms(session, organization_id)
    profile = _profile(session, organization_id)
    found = period_spend.get_period_spend(session, organization_id, held.period_id)
    cap = profile.spend_cap_minor, profile.spend_cap_action, profile.spend_cap_is_default
    return SpendCapState(*cap, held.period_id, found, held.currency, held.period_ends_at)


def set_spend_cap(
    session: Session, organization_id: UUID, amount: Decimal | None, action: str, actor: Actor
) -> SpendCapState:
    """Put another cap in force, from the next request on; None removes it.

    amount: in major units
    raises: Invalid below the period's base or what is used, or finer than the currency; NoSuchOrganization
    """
    state = get_cap_state(session, organization_id)
    minor = None
    if amount is not None:
        try:
            minor = money.parse_minor(money.format_unit_price(amount), state.currency)
        except ValueError as cause:
            raise ValidationFailed.at_field("amount", f"Not an amount in {state.currency}.") from cause
        if minor < state.spent.base_minor:
            raise ValidationFailed.at_field("amount", "Must not be below the base amount of the period.")
        if minor < state.spent.total:
            raise ValidationFailed.at_field("amount", "Must not be below what is used in this period.")
    profile = _profile(session, organization_id)
    before = {"amount_minor": profile.spend_cap_minor, "action": profile.spend_cap_action}
    profile.spend_cap_minor, profile.spend_cap_action, profile.spend_cap_is_default = minor, action, False
    session.flush()
    organizations.bump_generation(session, organization_id)
    changed = {"before": before, "after": {"amount_minor": minor, "action": action}}
    audit.record_event(session, organization_id, actor, "spend_cap.changed", ("organization", organization_id), changed)
    return replace(state, amount_minor=minor, action=action, is_default=False)


def _profile(session: Session, organization_id: UUID) -> BillingProfile:
    return session.scalars(select(BillingProfile).where(BillingProfile.organization_id == organization_id)).one()
