"""Cost of a billing period so far: base amounts and usage charges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing import bill_inputs, pauses, plans, subscriptions
from saas_api.billing.models import BillingPeriod
from saas_api.billing.rating import bill, charges, plan_changes
from saas_api.billing.rating.bill import BillInputs, RatedPlanVersion, UsageQuantity
from saas_api.billing.rating.charges import MeterPrice
from saas_api.billing.rating.plan_changes import PlanSegment
from saas_api.core import money
from saas_api.core.money import DECIMAL_PRECISION
from saas_api.usage import ledger


@dataclass(frozen=True)
class PeriodSpend:
    """Cost of a billing period so far.

    version: plan version in force at the end of the period
    base_minor: base amounts of the whole period
    charge: for all usage, in minor units, unrounded
    quantities: usage of the period by plan version and meter
    metered: quantities that the period pays for by meter, late usage included
    """

    version: RatedPlanVersion
    base_minor: int
    charge: Decimal
    quantities: Mapping[tuple[str, str], Decimal]
    metered: Mapping[str, Decimal]

    @property
    def total(self) -> Decimal:
        """Base amounts and usage charges, in minor units."""
        with localcontext(prec=DECIMAL_PRECISION):
            return self.base_minor + self.charge

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
    inputs = _inputs_without_usage(session, period, subscriptions.list_segments(session, organization_id))
    used: tuple[UsageQuantity, ...] = ()
    plan_code = plans.plan_for_version(version_id)
    version_ids = {segment.version_id for segment in inputs.segments}
    if sum(plans.plan_for_version(one) == plan_code for one in version_ids) > 1:
        used = tuple(UsageQuantity(**row) for row in ledger.period_quantities(session, organization_id, period_id))
    versions = bill_inputs.get_versions(session, inputs.segments, used, (), version_id)
    prices = bill.period_prices(versions, inputs.segments, used)
    return _base_minor(inputs), {
        meter: prices.get((version_id, meter), price) for meter, price in versions[version_id].prices.items()
    }


def get_period_spend(session: Session, organization_id: UUID, period_id: UUID) -> PeriodSpend:
    """Cost of a period so far."""
    period = session.get_one(BillingPeriod, (organization_id, period_id))
    return calculate_period_spend(session, period, subscriptions.list_segments(session, organization_id))


def calculate_period_spend(session: Session, period: BillingPeriod, segments: Sequence[PlanSegment]) -> PeriodSpend:
    """Cost of a period so far, from its row and the segments of its subscription."""
    inputs = _inputs_without_usage(session, period, segments)
    usage = bill_inputs.get_live_usage(session, period, segments)
    versions = bill_inputs.get_versions(session, inputs.segments, usage.used, usage.late)
    return PeriodSpend(
        versions[inputs.segments[-1].version_id],
        _base_minor(inputs),
        usage_charge(replace(inputs, versions=versions, used=usage.used, late=usage.late)),
        {(used.version_id, used.meter): used.quantity for used in usage.used},
        usage.metered,
    )


def usage_charge(inputs: BillInputs) -> Decimal:
    """Charge for usage, unrounded, and for late usage, in minor units."""
    prices = bill.period_prices(inputs.versions, inputs.segments, inputs.used)
    total = Decimal(bill.late_charge_minor(inputs))
    with localcontext(prec=DECIMAL_PRECISION):
        for usage in inputs.used:
            price = prices.get((usage.version_id, usage.meter))
            total += charges.exact_charge(price, usage.quantity) if price else 0
    return total


def _base_minor(inputs: BillInputs) -> int:
    return sum(line.amount_minor for line in bill.calculate_bill(inputs).lines if line.kind == "base")


def _inputs_without_usage(session: Session, period: BillingPeriod, segments: Sequence[PlanSegment]) -> BillInputs:
    paused = pauses.list_pauses(session, period.organization_id)
    parts = plan_changes.prorate_segments(segments, period.starts_at, period.ends_at, paused)
    versions = bill_inputs.get_versions(session, parts, (), ())
    return BillInputs(period.starts_at, period.ends_at, period.nominal_seconds, versions, parts)
