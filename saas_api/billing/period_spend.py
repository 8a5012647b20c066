"""Cost of a billing period so far: base amounts and usage charges."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, localcontext
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing import bill_inputs, pauses, plans, subscriptions
from saas_api.billing.models import BillingPeriod
from saas_api.billing.rating import bill, charges, plan_changes
from saas_api.billing.rating.bill import BillInputs, PriceKey, RatedPlanVersion, UsageQuantity
from saas_api.billing.rating.charges import MeterPrice
from saas_api.billing.rating.plan_changes import PlanSegment
from saas_api.core import clock, money
from saas_api.core.money import DECIMAL_PRECISION
from saas_api.usage import open_holds


@dataclass(frozen=True)
class PeriodSpend:
    """Cost of a billing period so far.

    version: plan version in force at the end of the period
    base_minor: base amounts of the whole period
    charge: for all usage, in minor units, unrounded
    quantities: usage of the period
    metered: quantities that the period pays for by meter, late usage included
    held: what open holds would add to the charge, in minor units, unrounded; limits count it, the charge is without it
    held_quantities: of open holds
    """

    version: RatedPlanVersion
    base_minor: int
    charge: Decimal
    quantities: Mapping[PriceKey, Decimal]
    metered: Mapping[str, Decimal]
    held: Decimal = Decimal(0)
    held_quantities: Mapping[PriceKey, Decimal] = field(default_factory=dict)

    @property
    def total(self) -> Decimal:
        """Base amounts and usage charges, in minor units."""
        with localcontext(prec=DECIMAL_PRECISION):
            return self.base_minor + self.charge

    def counted(self, key: PriceKey) -> Decimal:
        """Usage and open holds under a price, in the meter's unit."""
        return self.quantities.get(key, Decimal(0)) + self.held_quantities.get(key, Decimal(0))

    @property
    def total_major(self) -> Decimal:
        """Base amounts and usage charges, in major units, unrounded."""
        with localcontext(prec=DECIMAL_PRECISION):
            return self.total.scaleb(-money.currency_exponent(self.version.currency))


def get_base_and_prices(
    session: Session, organization_id: UUID, period_id: UUID, version_id: str
) -> tuple[int, dict[str, MeterPrice]]:
    """Base amounts of a whole period in minor units, and the prices of a version in it by meter.

    Included quantity and maximum of the prices are what other versions of the plan have left in the period.
    """
    period = session.get_one(BillingPeriod, (organization_id, period_id))
    segments = subscriptions.list_segments(session, organization_id)
    inputs = _inputs_without_usage(session, period, segments)
    used: tuple[UsageQuantity, ...] = ()
    plan_code = plans.plan_for_version(version_id)
    version_ids = {segment.version_id for segment in inputs.segments}
    if sum(plans.plan_for_version(one) == plan_code for one in version_ids) > 1:
        used = bill_inputs.get_live_usage(session, period, segments).used
    versions = bill_inputs.get_versions(session, inputs.segments, used, (), version_id)
    prices = bill.period_prices(versions, inputs.segments, used)
    return _base_minor(inputs), bill.version_prices(versions[version_id], prices)


def get_period_spend(session: Session, organization_id: UUID, period_id: UUID) -> PeriodSpend:
    """Cost of a period so far."""
    period = session.get_one(BillingPeriod, (organization_id, period_id))
    return calculate_period_spend(session, period, subscriptions.list_segments(session, organization_id))


def calculate_period_spend(session: Session, period: BillingPeriod, segments: Sequence[PlanSegment]) -> PeriodSpend:
    """Cost of a period so far, from its row and the segments of its subscription."""
    inputs = _inputs_without_usage(session, period, segments)
    usage = bill_inputs.get_live_usage(session, period, segments)
    held = held_usage(session, period, segments)
    versions = bill_inputs.get_versions(session, inputs.segments, (*usage.used, *held), usage.late)
    inputs = replace(inputs, versions=versions, used=usage.used, late=usage.late)
    charge = usage_charge(inputs)
    return PeriodSpend(
        versions[inputs.segments[-1].version_id],
        _base_minor(inputs),
        charge,
        {used.key: used.quantity for used in usage.used},
        usage.metered,
        held_charge(inputs, held, charge),
        {one.key: one.quantity for one in held},
    )


def held_usage(session: Session, period: BillingPeriod, segments: Sequence[PlanSegment]) -> list[UsageQuantity]:
    """Open holds as usage under the plan version in force now."""
    version_id = plan_changes.segment_at(segments, clock.now()).version_id
    held = open_holds.list_held_quantities(session, period.organization_id, version_id)
    return [UsageQuantity(version_id, one.meter, one.quantity, one.dimension_value) for one in held]


def held_charge(inputs: BillInputs, held: Sequence[UsageQuantity], charge: Decimal) -> Decimal:
    """What holds add to the charge of a period, in minor units, unrounded."""
    if not held:
        return Decimal(0)
    quantities: defaultdict[PriceKey, Decimal] = defaultdict(Decimal)
    for one in (*inputs.used, *held):
        quantities[one.key] += one.quantity
    used = tuple(UsageQuantity(version_id, meter, n, value) for (version_id, meter, value), n in quantities.items())
    with localcontext(prec=DECIMAL_PRECISION):
        return usage_charge(replace(inputs, used=used)) - charge


def usage_charge(inputs: BillInputs) -> Decimal:
    """Charge for usage, unrounded, and for late usage, in minor units."""
    prices = bill.period_prices(inputs.versions, inputs.segments, inputs.used)
    total = Decimal(bill.late_charge_minor(inputs))
    with localcontext(prec=DECIMAL_PRECISION):
        for usage in inputs.used:
            price = prices.get(usage.key)
            total += charges.exact_charge(price, usage.quantity) if price else 0
    return total


def _base_minor(inputs: BillInputs) -> int:
    return sum(line.amount_minor for line in bill.calculate_bill(inputs).lines if line.kind == "base")


def _inputs_without_usage(session: Session, period: BillingPeriod, segments: Sequence[PlanSegment]) -> BillInputs:
    paused = pauses.list_pauses(session, period.organization_id)
    parts = plan_changes.prorate_segments(segments, period.starts_at, period.ends_at, paused)
    versions = bill_inputs.get_versions(session, parts, (), ())
    return BillInputs(period.starts_at, period.ends_at, period.nominal_seconds, versions, parts)
