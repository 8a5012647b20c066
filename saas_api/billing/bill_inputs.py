"""Reads what the bill of a period depends on: segments, quantities, late usage and prices."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from saas_api.billing import pauses, plans
from saas_api.billing.models import BillingPeriod, SubscriptionSegment
from saas_api.billing.rating import plan_changes
from saas_api.billing.rating.bill import (
    BillInputs,
    LateQuantity,
    LateUsage,
    ProratedSegment,
    RatedPlanVersion,
    UsageQuantity,
)
from saas_api.billing.rating.plan_changes import Pause, PlanSegment
from saas_api.usage import live_quantities, range_quantities
from saas_api.usage import quantities as usage_quantities
from saas_api.usage.quantities import LatePeriodQuantity
from saas_api.usage.ranges import DateRange


@dataclass(frozen=True)
class LiveUsage:
    """Usage that a period pays for so far.

    used, late: as of `BillInputs`
    metered: quantities by meter, late usage included
    requests: number of accepted calls
    """

    used: tuple[UsageQuantity, ...]
    late: tuple[LateUsage, ...]
    metered: Mapping[str, Decimal]
    requests: int


def get_period_inputs(
    session: Session, period: BillingPeriod, ends_at: datetime, usage: LiveUsage | None = None
) -> BillInputs:
    """Inputs of the bill of a period.

    ends_at: end of the period, or an instant at which it would be ended early
    usage: for a bill that is only shown; None reads the ledger, as every invoice does
    """
    segments = _prorated_segments(session, period, ends_at)
    if usage is None:
        used = list_usage(session, period.organization_id, period.id)
        late = list_late_usage(session, period.organization_id, period.id)
    else:
        used, late = usage.used, usage.late
    versions = get_versions(session, segments, used, late)
    return BillInputs(period.starts_at, ends_at, period.nominal_seconds, versions, segments, used, late)


def get_versions(
    session: Session,
    segments: Iterable[ProratedSegment],
    used: Iterable[UsageQuantity],
    late: Iterable[LateUsage],
    *version_ids: str,
) -> dict[str, RatedPlanVersion]:
    """Plan versions that the parts of a bill name, and others, by id."""
    groups = [segments, used, *(part for usage in late for part in (usage.segments, usage.quantities))]
    return plans.get_versions(session, {part.version_id for group in groups for part in group}.union(version_ids))


# What credit notes returned of charges for a period, wherever they were invoiced, less what later bills have left out.
_CREDITED = text("""
SELECT coalesce(l.late_for_period_id, i.billing_period_id), l.plan_version_id, l.meter_code,
  coalesce(l.calculation ->> 'dimension_value', ''),
  sum(coalesce(n.amount_minor, 0) - coalesce(CAST(l.calculation ->> 'credited_minor' AS bigint), 0))
FROM invoices i JOIN invoice_lines l ON (l.organization_id, l.invoice_id) = (i.organization_id, i.id)
LEFT JOIN (SELECT invoice_line_id, sum(amount_minor) AS amount_minor FROM credit_note_lines
           WHERE organization_id = :organization_id GROUP BY 1) n ON n.invoice_line_id = l.id
WHERE i.organization_id = :organization_id AND i.kind = 'cycle' AND i.state <> 'void'
  AND i.billing_period_id <> :period_id AND l.kind IN ('usage', 'late_usage', 'minimum')
  AND coalesce(l.late_for_period_id, i.billing_period_id) = ANY (:late_periods)
GROUP BY 1, 2, 3, 4""")
_LATE_PERIODS = text("""
SELECT p.id, p.state = 'invoiced' AND NOT EXISTS (
  SELECT FROM invoices i WHERE i.organization_id = p.organization_id AND i.billing_period_id = p.id
    AND i.kind = 'cycle' AND i.state <> 'void') AS is_waived
FROM billing_periods p WHERE p.organization_id = :organization_id AND p.id = ANY (:late_periods) ORDER BY p.seq""")


def list_late_usage(session: Session, organization_id: UUID, period_id: UUID) -> tuple[LateUsage, ...]:
    """Late usage that a period pays for, from the ledger, by closed period, the oldest first."""
    rows = usage_quantities.late_period_quantities(session, organization_id, period_id)
    return _late_usage(session, organization_id, period_id, rows)


def _late_usage(
    session: Session, organization_id: UUID, period_id: UUID, rows: Iterable[LatePeriodQuantity]
) -> tuple[LateUsage, ...]:
    quantities: defaultdict[UUID, list[LateQuantity]] = defaultdict(list)
    for row in rows:
        quantities[row.period_id].append(
            LateQuantity(row.version_id, row.meter, row.billed, row.quantity, row.dimension_value, row.aggregation)
        )
    if not quantities:
        return ()
    values = {"organization_id": organization_id, "period_id": period_id, "late_periods": list(quantities)}
    credited: defaultdict[UUID, dict[tuple[str, str | None, str], int]] = defaultdict(dict)
    for late_period_id, version_id, meter, dimension_value, minor in session.execute(_CREDITED, values):
        credited[late_period_id][version_id, meter, dimension_value] = int(minor)
    late = []
    for late_period_id, is_waived in session.execute(_LATE_PERIODS, values):
        period = session.get_one(BillingPeriod, (organization_id, late_period_id))
        late.append(
            LateUsage(
                period.id,
                period.starts_at,
                period.ends_at,
                period.nominal_seconds,
                _prorated_segments(session, period, period.ends_at),
                tuple(quantities[period.id]),
                credited[period.id],
                is_waived,
            )
        )
    return tuple(late)


def _prorated_segments(session: Session, period: BillingPeriod, ends_at: datetime) -> tuple[ProratedSegment, ...]:
    rows = session.scalars(
        select(SubscriptionSegment)
        .where(SubscriptionSegment.organization_id == period.organization_id)
        .where(SubscriptionSegment.starts_at <= ends_at)
        .order_by(SubscriptionSegment.seq)
    )
    return prorate_segments(period, ends_at, rows, pauses.list_pauses(session, period.organization_id))


def prorate_segments(
    period: BillingPeriod, ends_at: datetime, chain: Iterable[SubscriptionSegment], paused: Sequence[Pause]
) -> tuple[ProratedSegment, ...]:
    """Divide a period by the segments of its organization, without its pauses.

    ends_at: as of `get_period_inputs`
    chain: in order; segments that start after the end do not count
    """
    segments = []
    for segment in chain:
        starts_at = max(segment.starts_at, period.starts_at)
        ends = min(segment.ends_at or ends_at, ends_at)
        begins_here = ends_at == period.starts_at and (segment.ends_at is None or segment.ends_at > ends_at)
        if starts_at < ends or begins_here:
            segments.append(ProratedSegment(segment.plan_version_id, starts_at, ends))
    return plan_changes.exclude_pauses(tuple(segments), paused)


def list_usage(
    session: Session,
    organization_id: UUID,
    period_id: UUID,
    segments: Sequence[PlanSegment] | None = None,
    exact_meters: Collection[str] | None = None,
) -> tuple[UsageQuantity, ...]:
    """Usage of a period without late usage, from the ledger.

    segments: as if the subscription had them; None for those that it has
    exact_meters: only these, which do not add up; None for all
    """
    chain = None if segments is None else [(segment.version_id, segment.starts_at) for segment in segments]
    if exact_meters is None:
        rows = usage_quantities.period_quantities(session, organization_id, period_id, chain)
    else:
        rows = usage_quantities.exact_quantities(session, organization_id, period_id, exact_meters, chain)
    return tuple(
        UsageQuantity(row.version_id, row.meter, row.quantity, row.dimension_value, row.aggregation) for row in rows
    )


def get_live_usage(session: Session, period: BillingPeriod, segments: Sequence[PlanSegment]) -> LiveUsage:
    """Usage of a period so far as if the subscription had these segments, from rollups and the tail of the ledger."""
    organization_id, period_id = period.organization_id, period.id
    chain = [(segment.version_id, segment.starts_at) for segment in segments]
    rows = live_quantities.list_live_quantities(session, organization_id, period_id, chain)
    exact_meters = usage_quantities.select_exact(rows)
    metered: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        metered[row.meter] += 0 if row.meter in exact_meters else row.quantity
    metered |= usage_quantities.exact_totals(session, organization_id, period_id, exact_meters)
    used = tuple(
        UsageQuantity(row.version_id, row.meter, row.quantity, row.dimension_value)
        for row in rows
        if row.late_period_id is None and row.meter not in exact_meters
    )
    exact = list_usage(session, organization_id, period_id, segments, exact_meters)
    late: tuple[LateUsage, ...] = ()
    if late_periods := {row.late_period_id for row in rows if row.late_period_id}:
        late_rows = live_quantities.late_period_quantities(session, organization_id, period_id, list(late_periods))
        late = _late_usage(session, organization_id, period_id, late_rows)
    return LiveUsage((*used, *exact), late, metered, sum(row.requests for row in rows))


def inputs_for_segments(session: Session, period: BillingPeriod, segments: Sequence[PlanSegment]) -> BillInputs:
    """Inputs of the bill of a whole period as if the subscription had these segments."""
    paused = pauses.list_pauses(session, period.organization_id)
    parts = plan_changes.prorate_segments(segments, period.starts_at, period.ends_at, paused)
    usage = get_live_usage(session, period, segments)
    versions = get_versions(session, parts, usage.used, usage.late)
    return BillInputs(period.starts_at, period.ends_at, period.nominal_seconds, versions, parts, usage.used, usage.late)


def inputs_for_version(period: BillingPeriod, version: RatedPlanVersion, used: Sequence[UsageQuantity]) -> BillInputs:
    """Inputs of the bill of a whole period as if one version had been in force all the time."""
    part = ProratedSegment(version.id, period.starts_at, period.ends_at)
    bounds = period.starts_at, period.ends_at, period.nominal_seconds
    return BillInputs(*bounds, {version.id: version}, (part,), tuple(used))


def given_usage(version: RatedPlanVersion, quantities: Mapping[str, Decimal]) -> list[UsageQuantity]:
    """Given quantities by meter, in its unit, as usage under a version; none has a value of a dimension."""
    return [UsageQuantity(version.id, meter, quantity) for meter, quantity in sorted(quantities.items())]


def list_previous_periods(session: Session, period: BillingPeriod, count: int) -> Sequence[BillingPeriod]:
    """The last periods before a period, newest first."""
    statement = select(BillingPeriod).where(
        BillingPeriod.organization_id == period.organization_id, BillingPeriod.seq < period.seq
    )
    return session.scalars(statement.order_by(BillingPeriod.seq.desc()).limit(count)).all()


def usage_by_period(
    session: Session, organization_id: UUID, periods: Sequence[BillingPeriod], versions: Collection[str]
) -> Mapping[tuple[UUID, str], Sequence[UsageQuantity]]:
    """Usage by period and version, by the period in which it occurred even if another one pays for it.

    versions: the usage is given under each of them, as if it had been in force all the time
    """
    used: defaultdict[tuple[UUID, str], list[UsageQuantity]] = defaultdict(list)
    ids = [period.id for period in periods]
    for row in live_quantities.occurred_quantities(session, organization_id, ids, list(versions)):
        usage = UsageQuantity(row.version_id, row.meter, row.quantity, row.dimension_value, row.aggregation)
        used[row.period_id, row.version_id].append(usage)
    return used


def recent_usage(
    session: Session, organization_id: UUID, days: DateRange, versions: Collection[str]
) -> Mapping[str, Sequence[UsageQuantity]]:
    """Usage of a range of days under each of some plan versions; "" stands for one without prices by dimension."""
    used: defaultdict[str, list[UsageQuantity]] = defaultdict(list)
    for row in range_quantities.list_recent_quantities(session, organization_id, days, list(versions)):
        usage = UsageQuantity(row.version_id, row.meter, row.quantity, row.dimension_value, row.aggregation)
        used[row.version_id].append(usage)
    return used
