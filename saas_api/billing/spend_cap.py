"""Spend cap of an organization: its state, the counters that the gate checks, and their reconciliation."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal, localcontext
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, organizations
from saas_api.accounts.notices import Notice
from saas_api.billing import period_spend, service_terms, subscriptions
from saas_api.billing.models import BillingPeriod, BillingProfile
from saas_api.billing.period_spend import PeriodSpend
from saas_api.billing.rating import charges, plan_changes
from saas_api.billing.rating.bill import PriceKey, RatedPlanVersion
from saas_api.billing.rating.charges import MeterPrice
from saas_api.billing.rating.plan_changes import PlanSegment
from saas_api.billing.service_terms import ServiceTerms
from saas_api.core import access, clock, formatting, money
from saas_api.core.access import Principal
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import ValidationFailed
from saas_api.core.limits import counters
from saas_api.core.limits.circuit_breaker import RedisUnavailable
from saas_api.core.limits.counters import MAX_COUNTER_VALUE
from saas_api.core.money import DECIMAL_PRECISION
from saas_api.core.observability import get_logger
from saas_api.usage import meters, quotas
from saas_api.usage.ledger import MeteredUsage
from saas_api.usage.quotas import MICRO_UNITS, MeterQuota

log = get_logger(__name__)
_SPEND_PREFIX = "$spend:"
_UNLIMITED = -1


@dataclass(frozen=True)
class SpendCapState:
    """The spend cap of an organization and the spend of its current period.

    amount_minor: None without a cap
    action: "block" or "alert"
    is_default: the cap is the default
    ends_at: of the period
    """

    amount_minor: int | None
    action: str
    is_default: bool
    period_id: UUID
    spent: PeriodSpend
    currency: str
    ends_at: datetime


def get_cap_state(session: Session, organization_id: UUID) -> SpendCapState:
    """The spend cap of an organization and the spend of its current period.

    raises: OrganizationNotFound
    """
    period_id = service_terms.get_terms(session, organization_id).period_id
    period = session.get_one(BillingPeriod, (organization_id, period_id))
    spent = period_spend.get_period_spend(session, organization_id, period_id)
    return build_cap_state(_get_profile(session, organization_id), period, spent)


def build_cap_state(profile: BillingProfile, period: BillingPeriod, spent: PeriodSpend) -> SpendCapState:
    """The spend cap of an organization with the spend of a period."""
    return SpendCapState(
        amount_minor=profile.spend_cap_minor,
        action=profile.spend_cap_action,
        is_default=profile.spend_cap_is_default,
        period_id=period.id,
        spent=spent,
        currency=spent.version.currency,
        ends_at=period.ends_at,
    )


# Of other meters a call adds nothing to the spend by itself.
_ANY_ADDITIVE = text("SELECT EXISTS (SELECT FROM meters WHERE code = ANY (:codes) AND aggregation IN ('sum', 'count'))")


def is_cap_reached(
    session: Session, profile: BillingProfile, period: BillingPeriod, segments: Sequence[PlanSegment], at: datetime
) -> bool:
    """Whether a cap refuses the next unit of some meter, or a cap that only notifies is reached.

    A cap that blocks is compared with the counters of the gate, because the ledger of a period may be long; open holds
    are in them. One that notifies is compared with the spend without holds.

    segments: of the organization's subscription, in order
    at: within the period
    """
    if profile.spend_cap_minor is None:
        return False
    if profile.spend_cap_action == "alert":
        return period_spend.calculate_period_spend(session, period, segments).total >= profile.spend_cap_minor
    version_id = plan_changes.segment_at(segments, at).version_id
    base_minor, by_meter = period_spend.get_base_and_prices(session, period.organization_id, period.id, version_id)
    prices = {
        (version_id, meter, value): price
        for meter, price_of_meter in by_meter.items()
        for value, price in price_of_meter.by_value.items()
    }
    names = [spend_counter_name(profile.currency), *map(quantity_counter_name, prices)]
    try:
        used, *quantities = counters.read_counters(
            [counters.counter_key(period.organization_id, period.id, name) for name in names]
        )
    except RedisUnavailable:
        return False
    rest = amount_to_micro_units(Decimal(profile.spend_cap_minor - base_minor), profile.currency) - (used or 0)
    refused = {
        meter
        for ((_, meter, _), price), quantity in zip(prices.items(), quantities, strict=True)
        if _next_unit_micro(price, quantity or 0, profile.currency) > rest
    }
    return bool(refused) and (rest < 0 or bool(session.scalar(_ANY_ADDITIVE, {"codes": list(refused)})))


def _next_unit_micro(price: MeterPrice, quantity: int, currency: str) -> int:
    """Charge for one more unit in millionths of the currency. quantity: in millionths."""
    return amount_to_micro_units(charges.marginal_charge(price, Decimal(quantity).scaleb(-6), Decimal(1)), currency)


def quantity_counter_name(key: PriceKey) -> str:
    """Name of the counter for the quantity under one price."""
    version_id, meter, value = key
    return f"${version_id}:{meter}:{value}" if value else f"${version_id}:{meter}"


def spend_counter_name(currency: str) -> str:
    """Name of the counter of the charges of a period; a currency that is chosen within the period has its own."""
    return f"{_SPEND_PREFIX}{currency}"


def is_spend_counter(name: str) -> bool:
    """Whether a counter counts money."""
    return name.startswith(_SPEND_PREFIX)


def amount_to_micro_units(minor: Decimal, currency: str) -> int:
    """An amount in minor units as millionths of the currency, the unit of the spend counter; at most its highest."""
    exact = money.multiply_exact(minor, Decimal(MICRO_UNITS).scaleb(-money.currency_exponent(currency)))
    return min(MAX_COUNTER_VALUE, money.round_half_up(exact))


def spend_counters(
    terms: ServiceTerms,
    usage: Sequence[MeteredUsage],
    cached: Mapping[str, int],
    spent: PeriodSpend | None,
    *,
    is_final: bool,
) -> list[MeterQuota]:
    """Counters of a call for the spend cap: one for each quantity, then the money.

    Meters that do not add up have no counter and add nothing: the call is refused once the spend is above the cap.

    usage: what the call uses
    cached: last known values of the quantity counters by name, in millionths
    spent: the period as PostgreSQL has it, to initialize counters that Redis does not have
    is_final: accept the charge even if a quantity has changed meanwhile
    returns: empty without a cap that blocks, and for usage that has no price
    """
    prices = list_spend_prices(terms, usage)
    if terms.cap is None or not prices:
        return []
    quantity_counters, charge = [], 0
    for key, (price, units) in sorted(prices.items()):
        if not units:
            continue
        name, stored = quantity_counter_name(key), quotas.to_micro_units(spent.counted(key)) if spent else 0
        quantity = cached.get(name, stored)
        lower, upper = (
            (-MAX_COUNTER_VALUE, MAX_COUNTER_VALUE) if is_final else _constant_charge_range(price, quantity, units)
        )
        marginal = charges.marginal_charge(price, Decimal(quantity).scaleb(-6), units)
        charge += amount_to_micro_units(marginal, terms.currency)
        quantity_counters.append(MeterQuota(name, quotas.to_micro_units(units), _UNLIMITED, stored, lower, upper))
    limit = amount_to_micro_units(Decimal(terms.cap.amount_minor - terms.cap.base_minor), terms.currency)
    used = amount_to_micro_units(_counted_charge(spent), terms.currency) if spent else 0
    return [*quantity_counters, MeterQuota(spend_counter_name(terms.currency), charge, limit, used)]


def list_spend_prices(terms: ServiceTerms, usage: Sequence[MeteredUsage]) -> dict[PriceKey, tuple[MeterPrice, Decimal]]:
    """Prices under which usage counts towards the spend cap, with what it adds; empty without a cap that blocks."""
    prices: dict[PriceKey, tuple[MeterPrice, Decimal]] = {}
    for used in usage if terms.cap else ():
        if price := terms.cap.prices.get(used.meter) if terms.cap else None:
            value = price.value_for(used.properties)
            key = terms.plan_version_id, used.meter, value
            _, units = prices.get(key, (price, Decimal(0)))
            added = Decimal(0) if used.meter in terms.exact_meters else used.quantity
            prices[key] = price.by_value[value], units + added
    return prices


def _counted_charge(spent: PeriodSpend) -> Decimal:
    """Charges of usage and of open holds, in minor units."""
    with localcontext(prec=DECIMAL_PRECISION):
        return spent.charge + spent.held


def spend_text(terms: ServiceTerms, used: int) -> str:
    """Base and charges of the period in major units, unrounded, for the API.

    used: value of the spend counter
    """
    base = Decimal(terms.cap.base_minor if terms.cap else 0).scaleb(-money.currency_exponent(terms.currency))
    return money.format_exact_amount(base + Decimal(used).scaleb(-6), terms.currency)


def _constant_charge_range(price: MeterPrice, quantity: int, units: Decimal) -> tuple[int, int]:
    """Inclusive range of quantities, in millionths, for which further units cost the same."""
    bounds = charges.constant_marginal_range(price, Decimal(quantity).scaleb(-6), units)
    if bounds is None:
        return quantity, quantity
    lower, upper = bounds
    return (
        -MAX_COUNTER_VALUE if lower is None else quotas.to_micro_units(lower) + 1,
        MAX_COUNTER_VALUE if upper is None else quotas.to_micro_units(upper),
    )


def set_spend_cap(session: Session, principal: Principal, amount: Decimal | None, action: str) -> SpendCapState:
    """Set the spend cap of the caller's organization, effective with the next request; None removes it.

    amount: in major units
    raises: FreshLoginRequired, OrganizationNotFound; ValidationFailed for an amount below the base amounts of the
        period, below base amount or minimum of the plan in force or scheduled, below the spend of the period, or with
        too many decimals
    """
    access.require_fresh_login(principal)
    organization_id = principal.organization_id
    state = get_cap_state(session, organization_id)
    amount_minor = None
    if amount is not None:
        amount_minor = _parse_cap(amount, state)
        subscription = subscriptions.get_subscription(session, organization_id, clock.now())
        _check_plan_amounts(amount_minor, subscription.version)
        if subscription.scheduled:
            _check_plan_amounts(amount_minor, subscription.scheduled.version)
    profile = _get_profile(session, organization_id)
    cap_before = _describe_cap(profile.spend_cap_minor, profile.spend_cap_action, state.currency)
    before = {"amount_minor": profile.spend_cap_minor, "action": profile.spend_cap_action}
    profile.spend_cap_minor, profile.spend_cap_action, profile.spend_cap_is_default = amount_minor, action, False
    session.flush()
    organizations.bump_generation(session, organization_id)
    data = {"before": before, "after": {"amount_minor": amount_minor, "action": action}}
    actor = audit.actor_for(principal)
    audit.record_event(session, organization_id, actor, "spend_cap.changed", ("organization", organization_id), data)
    facts = [f"Before: {cap_before}", f"Now: {_describe_cap(amount_minor, action, state.currency)}"]
    advice = "Change your password, set the cap right, and look for API keys that you do not know."
    notice = Notice("The spend cap was changed", facts, advice, "/dashboard/billing/spending")
    members.enqueue_notice(session, organization_id, actor, notice)
    return replace(state, amount_minor=amount_minor, action=action, is_default=False)


def _describe_cap(amount_minor: int | None, action: str, currency: str) -> str:
    if amount_minor is None:
        return "no cap"
    consequence = "then calls are refused" if action == "block" else "then only an alert"
    return f"{formatting.format_money(amount_minor, currency)} a period, {consequence}"


def reconcile_counters(session: SystemSession, organization_id: UUID, period_id: UUID, spent: PeriodSpend) -> None:
    """Correct the counters of a period in Redis from the ledger. Does nothing while Redis is unavailable.

    spent: a recent read of the period; the period is read again only if a counter differs
    """
    names = sorted(_database_values(spent).keys() | map(quotas.quota_counter_name, meters.cached_meters(None)))
    keys = [counters.counter_key(organization_id, period_id, name) for name in names]
    try:
        before = counters.read_counters(keys)
        if all(
            value in (None, _database_values(spent).get(name, 0)) for name, value in zip(names, before, strict=True)
        ):
            return
        correct = _database_values(period_spend.get_period_spend(session, organization_id, period_id))
        for name, key, first, last in zip(names, keys, before, counters.read_counters(keys), strict=True):
            if first is not None and last is not None:
                _correct_counter(key, first, correct.get(name, 0), last)
    except RedisUnavailable:
        log.warning("counters_uncorrected", organization_id=str(organization_id))


def _correct_counter(key: str, before: int, correct: int, after: int) -> None:
    """Raise a low counter at once; lower a high one by what two runs in a row found, as requests may be running."""
    if correct > after:
        counters.adjust_counters({key: correct - after})
        return
    excess = max(0, before - correct)
    confirmed = min(excess, counters.exchange_previous_excess(key, excess))
    if confirmed:
        counters.adjust_counters({key: -confirmed})
        counters.exchange_previous_excess(key, 0)


def _database_values(spent: PeriodSpend) -> Mapping[str, int]:
    """Counters by name as usage and open holds in PostgreSQL give them, in millionths."""
    totals: defaultdict[str, Decimal] = defaultdict(Decimal, spent.metered)
    for (_, meter, _), quantity in spent.held_quantities.items():
        totals[meter] += quantity
    codes = {*totals, *spent.version.prices}
    values = {
        quotas.quota_counter_name(meter): quotas.to_micro_units(max(totals[meter], Decimal(0))) for meter in codes
    }
    keys = {(spent.version.id, meter, one) for meter, price in spent.version.prices.items() for one in price.by_value}
    for key in keys.union(spent.quantities, spent.held_quantities):
        values[quantity_counter_name(key)] = quotas.to_micro_units(max(spent.counted(key), Decimal(0)))
    currency = spent.version.currency
    values[spend_counter_name(currency)] = max(0, amount_to_micro_units(_counted_charge(spent), currency))
    return values


def _parse_cap(amount: Decimal, state: SpendCapState) -> int:
    try:
        amount_minor = money.parse_minor(money.format_unit_price(amount), state.currency)
    except ValueError as cause:
        raise ValidationFailed.at_field("amount", f"Not an amount in {state.currency}.") from cause
    if amount_minor < state.spent.base_minor:
        raise ValidationFailed.at_field("amount", "Must not be below the base amount of the period.")
    if amount_minor < state.spent.total:
        raise ValidationFailed.at_field("amount", "Must not be below what is used in this period.")
    return amount_minor


def _check_plan_amounts(amount_minor: int, version: RatedPlanVersion) -> None:
    named = (("base amount", version.base_amount_minor), ("minimum", version.min_spend_minor))
    for name, minor in named:
        if amount_minor < minor:
            least = formatting.format_money(minor, version.currency)
            raise ValidationFailed.at_field("amount", f"Must not be below {least}, the {name} of {version.name}.")


def _get_profile(session: Session, organization_id: UUID) -> BillingProfile:
    return session.get_one(BillingProfile, organization_id)
