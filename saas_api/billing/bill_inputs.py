"""Reads what the bill of a period depends on: segments, quantities, late usage and prices."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from saas_api.billing import plans
from saas_api.billing.models import BillingPeriod, SubscriptionSegment
from saas_api.billing.rating import plan_changes
from saas_api.billing.rating.bill import BillInputs, LateUsage, ProratedSegment, RatedPlanVersion, UsageQuantity
from saas_api.billing.rating.plan_changes import PlanSegment
from saas_api.usage import ledger
from saas_api.usage.rollups import LIVE_USAGE_SQL


def get_period_inputs(session: Session, period: BillingPeriod, ends_at: datetime) -> BillInputs:
    """Inputs of the bill of a period.

    ends_at: end of the period, or an instant at which it would be ended early
    """
    segments = _prorated_segments(session, period, ends_at)
    used = tuple(UsageQuantity(**row) for row in ledger.period_quantities(session, period.organization_id, period.id))
    late = tuple(LateUsage(**row) for row in ledger.late_period_quantities(session, period.organization_id, period.id))
    version_ids = {part.version_id for parts in (segments, used, late) for part in parts}
    return BillInputs(
        period.starts_at,
        ends_at,
        period.nominal_seconds,
        plans.get_versions(session, version_ids),
        segments,
        used,
        late,
    )


def _prorated_segments(session: Session, period: BillingPeriod, ends_at: datetime) -> tuple[ProratedSegment, ...]:
    rows = session.scalars(
        select(SubscriptionSegment)
        .where(SubscriptionSegment.organization_id == period.organization_id)
        .where(SubscriptionSegment.starts_at <= ends_at)
        .order_by(SubscriptionSegment.seq)
    )
    segments = []
    for segment in rows:
        starts_at = max(segment.starts_at, period.starts_at)
        ends = min(segment.ends_at or ends_at, ends_at)
        begins_here = ends_at == period.starts_at and (segment.ends_at is None or segment.ends_at > ends_at)
        if starts_at < ends or begins_here:
            segments.append(ProratedSegment(segment.plan_version_id, starts_at, ends))
    return tuple(segments)


_QUANTITY_BY_VERSION = text("""
SELECT s.version_id, e.meter_code AS meter, sum(e.quantity) AS quantity
FROM usage_events e JOIN LATERAL (
  SELECT version_id FROM unnest(CAST(:versions AS text[]), CAST(:starts AS timestamptz[])) AS s (version_id, starts_at)
  WHERE s.starts_at <= e.occurred_at ORDER BY s.starts_at DESC LIMIT 1) s ON true
WHERE e.organization_id = :organization_id AND e.billing_period_id = :period_id AND e.late_for_period_id IS NULL
GROUP BY 1, 2 ORDER BY 1, 2""")


def inputs_for_segments(session: Session, period: BillingPeriod, segments: Sequence[PlanSegment]) -> BillInputs:
    """Inputs of the bill of a whole period as if the subscription had these segments."""
    parts = plan_changes.prorate_segments(segments, period.starts_at, period.ends_at)
    values = {
        "organization_id": period.organization_id,
        "period_id": period.id,
        "versions": [segment.version_id for segment in segments],
        "starts": [segment.starts_at for segment in segments],
    }
    used = tuple(UsageQuantity(**row) for row in session.execute(_QUANTITY_BY_VERSION, values).mappings())
    late = tuple(LateUsage(**row) for row in ledger.late_period_quantities(session, period.organization_id, period.id))
    versions = plans.get_versions(session, {part.version_id for group in (parts, used, late) for part in group})
    return BillInputs(period.starts_at, period.ends_at, period.nominal_seconds, versions, parts, used, late)


def inputs_for_version(
    period: BillingPeriod, version: RatedPlanVersion, quantities: Mapping[str, Decimal]
) -> BillInputs:
    """Inputs of the bill of a whole period as if one version had been in force all the time.

    quantities: by meter, in the meter's unit
    """
    used = tuple(UsageQuantity(version.id, meter, quantity) for meter, quantity in sorted(quantities.items()))
    part = ProratedSegment(version.id, period.starts_at, period.ends_at)
    bounds = period.starts_at, period.ends_at, period.nominal_seconds
    return BillInputs(*bounds, {version.id: version}, (part,), used)


def list_previous_periods(session: Session, period: BillingPeriod, count: int) -> Sequence[BillingPeriod]:
    """The last periods before a period, newest first."""
    statement = select(BillingPeriod).where(
        BillingPeriod.organization_id == period.organization_id, BillingPeriod.seq < period.seq
    )
    return session.scalars(statement.order_by(BillingPeriod.seq.desc()).limit(count)).all()


_QUANTITY_BY_PERIOD = text(f"""
WITH live AS ({LIVE_USAGE_SQL})
SELECT period_id, meter_code, sum(quantity) FROM (
  SELECT billing_period_id AS period_id, meter_code, quantity FROM live
  WHERE billing_period_id = ANY (:periods) AND NOT is_late
  UNION ALL
  SELECT late_for_period_id, meter_code, quantity FROM usage_events
  WHERE organization_id = :organization_id AND late_for_period_id = ANY (:periods)) used
GROUP BY 1, 2 ORDER BY 1, 2""")


def usage_by_period(
    session: Session, organization_id: UUID, periods: Sequence[BillingPeriod]
) -> Mapping[UUID, Mapping[str, Decimal]]:
    """Quantities by period and meter, by the period in which the usage occurred even if another one pays for it."""
    values = {"organization_id": organization_id, "periods": [period.id for period in periods]}
    quantities: defaultdict[UUID, dict[str, Decimal]] = defaultdict(dict)
    for period_id, meter, quantity in session.execute(_QUANTITY_BY_PERIOD, values):
        quantities[period_id][meter] = quantity
    return quantities
