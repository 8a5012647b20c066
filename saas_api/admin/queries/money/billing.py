"""What closing has to do, what it left behind, and who is held back from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingProfile, Invoice
from saas_api.core.errors import NotFound
from saas_api.core.settings import setting
from saas_api.organizations.models import Organization

SHOWN = 100
_DUE = sa.text("""
SELECT p.organization_id, o.name, count(*) AS periods, count(*) FILTER (WHERE p.state = 'closed') AS closed,
  min(p.ends_at) AS since, b.parked_at IS NOT NULL AS is_parked
FROM billing_periods p JOIN organizations o ON o.id = p.organization_id
LEFT JOIN billing_profiles b ON b.organization_id = p.organization_id
WHERE p.state = 'closed' OR p.state = 'open' AND p.ends_at <= :through
GROUP BY p.organization_id, o.name, b.parked_at ORDER BY min(p.ends_at) LIMIT :most
""")
_RUNS = sa.text("""
SELECT scheduled_for, state, started_at, finished_at, attempts, host, error FROM job_runs
WHERE job = :job ORDER BY scheduled_for DESC LIMIT :most
""")


@dataclass(frozen=True)
class DueOrganization:
    """Somebody whose ended periods are not invoiced.

    closed: of these periods, those that wait for nothing but their invoice
    since: when the first of them ended
    """

    organization_id: UUID
    name: str
    periods: int
    closed: int
    since: datetime
    is_parked: bool


def due(session: Session, at: datetime) -> list[DueOrganization]:
    """Organizations that the next close works off, the longest waiting first; at most a hundred."""
    through = at - timedelta(minutes=setting("BILLING_GRACE_MINUTES"))
    return [DueOrganization(*row) for row in session.execute(_DUE, {"through": through, "most": SHOWN})]


def drafts(session: Session) -> Sequence[Any]:
    """Drafts that wait for somebody to look, the oldest first, with the name of their organization."""
    return session.execute(
        sa.select(Invoice, Organization.name)
        .join(Organization, Organization.id == Invoice.organization_id)
        .where(Invoice.state == "draft")
        .order_by(Invoice.created_at, Invoice.id)
        .limit(SHOWN)
    ).all()


def parked(session: Session) -> Sequence[Any]:
    """Profiles whose organization's bills are held back, the longest first, with its name."""
    return session.execute(
        sa.select(BillingProfile, Organization.name)
        .join(Organization, Organization.id == BillingProfile.organization_id)
        .where(BillingProfile.parked_at.is_not(None))
        .order_by(BillingProfile.parked_at)
        .limit(SHOWN)
    ).all()


def get_profile(session: Session, organization_id: UUID) -> Any:
    """A billing profile and the name of its organization.

    raises: NotFound
    """
    row = session.execute(
        sa.select(BillingProfile, Organization.name)
        .join(Organization, Organization.id == BillingProfile.organization_id)
        .where(BillingProfile.organization_id == organization_id)
    ).first()
    if row is None:
        raise NotFound
    return row


def names(session: Session, organization_ids: set[UUID]) -> dict[UUID, str]:
    """What organizations are called."""
    wanted = sa.select(Organization.id, Organization.name).where(Organization.id.in_(organization_ids))
    return {row.id: row.name for row in session.execute(wanted)} if organization_ids else {}


def runs(session: Session, job: str, most: int = 10) -> Sequence[Any]:
    """The last runs of a job of the timetable, the newest first."""
    return session.execute(_RUNS, {"job": job, "most": most}).all()
