"""Cost of a billing period so far: base amounts and usage charges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing import bill_inputs, plans, subscriptions
from saas_api.billing.models import BillingPeriod
from saas_api.billing.rating import bill, charges, plan_changes
from saas_api.billing.rating.bill import BillInputs, LateUsage, RatedPlanVersion, UsageQuantity
from saas_api.billing.rating.plan_changes import PlanSegment
from saas_api.core import money
from saas_api.core.money import DECIMAL_PRECISION


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


def period_base_minor(session: Session, organization_id: UUID, period_id: UUID) -> int:
    """Base amounts of a whole period, in minor units."""
    period = session.get_one(BillingPeriod, (organization_id, period_id))
    return _base_minor(_inputs_without_usage(session, period, subscriptions.list_segments(session, organization_id)))


def get_period_spend(session: Session, organization_id: UUID, period_id: UUID) -> PeriodSpend:
    """Cost of a period so far."""
    period = session.get_one(BillingPeriod, (organization_id, period_id))
    segments = subscriptions.list_segments(session, organization_id)
    inputs = _inputs_without_usage(session, period, segments)
    usage = bill_inputs.get_live_usage(session, period, segments)
    versions = plans.get_versions(
        session, {part.version_id for group in (inputs.segments, usage.used, usage.late) for part in group}
    )
    return PeriodSpend(
        versions[inputs.segments[-1].version_id],
        _base_minor(inputs),
        usage_charge(versions, usage.used, usage.late),
        {(used.version_id, used.meter): used.quantity for used in usage.used},
        usage.metered,
    )


def usage_charge(
    versions: Mapping[str, RatedPlanVersion], used: tuple[UsageQuantity, ...], late: tuple[LateUsage, ...]
) -> Decimal:
    """Charge for usage and late usage, in minor units, unrounded."""
    total = Decimal(0)
    with localcontext(prec=DECIMAL_PRECISION):
        for usage in used:
            price = versions[usage.version_id].prices.get(usage.meter)
            total += charges.exact_charge(price, usage.quantity) if price else 0
        for late_usage in late:
            price = versions[late_usage.version_id].prices.get(late_usage.meter)
            total += charges.late_usage_charge(price, late_usage.billed, late_usage.quantity) if price else 0
    return total


def _base_minor(inputs: BillInputs) -> int:
    return sum(line.amount_minor for line in bill.calculate_bill(inputs).lines if line.kind == "base")


def _inputs_without_usage(session: Session, period: BillingPeriod, segments: Sequence[PlanSegment]) -> BillInputs:
    parts = plan_changes.prorate_segments(segments, period.starts_at, period.ends_at)
    versions = plans.get_versions(session, {part.version_id for part in parts})
    return BillInputs(period.starts_at, period.ends_at, period.nominal_seconds, versions, parts)
