"""Cost of a billing period so far: base amounts and usage charges."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing import plans, subscriptions
from saas_api.billing.models import BillingPeriod
from saas_api.billing.rating import bill, charges, plan_changes
from saas_api.billing.rating.bill import BillInputs, LateUsage, RatedPlanVersion, UsageQuantity
from saas_api.core import money
from saas_api.core.money import DECIMAL_PRECISION
from saas_api.usage import ledger
from saas_api.usage.rollups import LIVE_USAGE_SQL

_LIVE_QUANTITIES = text(f"""WITH live AS ({LIVE_USAGE_SQL})
  SELECT meter_code AS meter, sum(quantity) AS quantity, bool_or(is_late) AS is_late
  FROM live WHERE billing_period_id = :period_id GROUP BY 1 ORDER BY 1""")


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
    return _base_minor(_inputs_without_usage(session, organization_id, period_id))


def get_period_spend(session: Session, organization_id: UUID, period_id: UUID) -> PeriodSpend:
    """Cost of a period so far.

    Reads the rollups, or the ledger for a period with several plan versions or late usage.
    """
    inputs = _inputs_without_usage(session, organization_id, period_id)
    values = {"organization_id": organization_id, "period_id": period_id}
    rows = session.execute(_LIVE_QUANTITIES, values).all()
    used: tuple[UsageQuantity, ...]
    late: tuple[LateUsage, ...] = ()
    if len(inputs.segments) == 1 and not any(row.is_late for row in rows):
        used = tuple(UsageQuantity(inputs.segments[0].version_id, row.meter, row.quantity) for row in rows)
    else:
        used = tuple(UsageQuantity(**row) for row in ledger.period_quantities(session, organization_id, period_id))
        late = tuple(LateUsage(**row) for row in ledger.late_period_quantities(session, organization_id, period_id))
    versions = plans.get_versions(
        session, {part.version_id for group in (inputs.segments, used, late) for part in group}
    )
    return PeriodSpend(
        versions[inputs.segments[-1].version_id],
        _base_minor(inputs),
        usage_charge(versions, used, late),
        {(usage.version_id, usage.meter): usage.quantity for usage in used},
        {row.meter: row.quantity for row in rows},
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


def _inputs_without_usage(session: Session, organization_id: UUID, period_id: UUID) -> BillInputs:
    period = session.get_one(BillingPeriod, (organization_id, period_id))
    segments = plan_changes.prorate_segments(
        subscriptions.list_segments(session, organization_id), period.starts_at, period.ends_at
    )
    versions = plans.get_versions(session, {segment.version_id for segment in segments})
    return BillInputs(period.starts_at, period.ends_at, period.nominal_seconds, versions, segments)
