"""Everything the bill of a period depends on, for preview and invoice alike."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingPeriod, SubscriptionSegment
from saas_api.billing.queries import catalogue
from saas_api.billing.rules.bill import Late, PeriodInputs, Stretch, Used
from saas_api.usage.queries import ledger


def period_inputs(session: Session, period: BillingPeriod, ends_at: datetime) -> PeriodInputs:
    """Inputs of a period's bill.

    ends_at: the period's own end, or the instant at which it would be cut
    """
    stretches = _stretches(session, period, ends_at)
    used = tuple(Used(**row) for row in ledger.quantities(session, period.organization_id, period.id))
    late = tuple(Late(**row) for row in ledger.late_quantities(session, period.organization_id, period.id))
    ids = {part.version_id for parts in (stretches, used, late) for part in parts}
    return PeriodInputs(
        period.starts_at,
        ends_at,
        period.nominal_seconds,
        catalogue.versions(session, ids),
        stretches,
        used,
        late,
    )


def _stretches(session: Session, period: BillingPeriod, ends_at: datetime) -> tuple[Stretch, ...]:
    segments = session.scalars(
        select(SubscriptionSegment)
        .where(SubscriptionSegment.organization_id == period.organization_id)
        .where(SubscriptionSegment.starts_at <= ends_at)
        .order_by(SubscriptionSegment.seq)
    )
    found = []
    for segment in segments:
        starts_at = max(segment.starts_at, period.starts_at)
        ends = min(segment.ends_at or ends_at, ends_at)
        begins_here = ends_at == period.starts_at and (segment.ends_at is None or segment.ends_at > ends_at)
        if starts_at < ends or begins_here:
            found.append(Stretch(segment.plan_version_id, starts_at, ends))
    return tuple(found)


def find_earliest_open(session: Session, organization_id: UUID) -> BillingPeriod | None:
    """The open period that pays for what belongs to none, such as usage of a period that was closed ahead of time."""
    open_periods = select(BillingPeriod).where(BillingPeriod.organization_id == organization_id)
    return session.scalars(open_periods.where(BillingPeriod.state == "open").order_by(BillingPeriod.seq)).first()


def find_running(session: Session, organization_id: UUID, at: datetime) -> BillingPeriod | None:
    """The open period that contains an instant."""
    return session.scalars(
        select(BillingPeriod)
        .where(BillingPeriod.organization_id == organization_id, BillingPeriod.state == "open")
        .where(BillingPeriod.starts_at <= at, BillingPeriod.ends_at > at)
    ).first()


def find_containing(session: Session, organization_id: UUID, at: datetime) -> BillingPeriod | None:
    """The period that contains an instant, in whatever state."""
    return session.scalars(
        select(BillingPeriod)
        .where(BillingPeriod.organization_id == organization_id)
        .where(BillingPeriod.starts_at <= at, BillingPeriod.ends_at > at)
        .execution_options(populate_existing=True)
    ).first()
