"""What a period has cost so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from saas_api.billing import plans, subscriptions
from saas_api.billing.models import BillingPeriod
from saas_api.billing.rating import bill, charges, plan_changes
from saas_api.billing.rating.bill import BillInputs, LateUsage, RatedPlanVersion, UsageQuantity
from saas_api.core.money import DECIMAL_PRECISION
from saas_api.usage import ledger
from saas_api.usage.rollups import LIVE_USAGE_SQL

_LIVE = text(f"""WITH live AS ({LIVE_USAGE_SQL})
  SELECT meter_code AS meter, sum(quantity) AS quantity, bool_or(is_late) AS is_late
  FROM live WHERE billing_period_id = :period_id GROUP BY 1 ORDER BY 1""")


@dataclass(frozen=True)
class PeriodSpend:
    """What a period has cost so far.

    version: the plan version in force at the period's end
    base_minor: of the whole period
    charge: of all usage, in minor units, unrounded
    quantities: by plan version and meter
    metered: by meter, everything the period pays for
    """

    version: RatedPlanVersion
    base_minor: int
    charge: Decimal
    quantities: Mapping[tuple[str, str], Decimal]
    metered: Mapping[str, Decimal]

    @property
    def total(self) -> Decimal:
        """Base and charge, in minor units."""
        with localcontext(prec=DECIMAL_PRECISION):
            return self.base_minor + self.charge


def period_base_minor(session: Session, organization_id: UUID, period_id: UUID) -> int:
    """The base amounts of a whole period, in minor units."""
    return _base_minor(_without_usage(session, organization_id, period_id))


def get_period_spend(session: Session, organization_id: UUID, period_id: UUID) -> PeriodSpend:
    """What a period has cost up to now.

    A period with several plan versions, or with late usage, is read from the ledger.
    """
    inputs = _without_usage(session, organization_id, period_id)
    values = {"organization_id": organization_id, "period_id": period_id}
    rows = session.execute(_LIVE, values).all()
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
        {(part.version_id, part.meter): part.quantity for part in used},
        {row.meter: row.quantity for row in rows},
    )


def usage_charge(
    versions: Mapping[str, RatedPlanVersion], used: tuple[UsageQuantity, ...], late: tuple[LateUsage, ...]
) -> Decimal:
    """What all usage costs, in minor units, unrounded."""
    total = Decimal(0)
    with localcontext(prec=DECIMAL_PRECISION):
        for part in used:
            price = versions[part.version_id].prices.get(part.meter)
            total += charges.exact_charge(price, part.quantity) if price else 0
        for part_late in late:
            price = versions[part_late.version_id].prices.get(part_late.meter)
            total += charges.late_usage_charge(price, part_late.billed, part_late.quantity) if price else 0
    return total


def _base_minor(inputs: BillInputs) -> int:
    return sum(line.amount_minor for line in bill.calculate_bill(inputs).lines if line.kind == "base")


def _without_usage(session: Session, organization_id: UUID, period_id: UUID) -> BillInputs:
    wanted = select(BillingPeriod).where(BillingPeriod.organization_id == organization_id)
    period = session.scalars(wanted.where(BillingPeriod.id == period_id)).one()
    parts = plan_changes.prorate_segments(
        subscriptions.list_segments(session, organization_id), period.starts_at, period.ends_at
    )
    versions = plans.get_versions(session, {part.version_id for part in parts})
    return BillInputs(period.starts_at, period.ends_at, period.nominal_seconds, versions, parts)
