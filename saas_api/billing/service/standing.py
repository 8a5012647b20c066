"""Standing: what unpaid invoices have led to; the gate sees a change on the next request."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from saas_api.billing.models import Subscription
from saas_api.core.ids import wire_id
from saas_api.organizations import service as organizations
from saas_api.organizations.service import audit
from saas_api.webhooks import service as webhooks

_REPORTED = {
    "good": ("organization.resumed", "active", None),
    "restricted": ("organization.restricted", "restricted", "overdue"),
    "suspended": ("organization.suspended", "suspended", "overdue"),
}


def lock_standing(session: Session, organization_id: UUID) -> str:
    """Read a standing that nobody else moves until this transaction ends, so that what decides it is read after it."""
    return _locked(session, organization_id).standing


def set_standing(session: Session, organization_id: UUID, standing: str) -> bool:
    """Move an organization's standing; the operator's own switch stays as it is.

    session: of the system
    standing: "good", "restricted" or "suspended"
    returns: whether it was another before
    """
    subscription = _locked(session, organization_id)
    if subscription.standing == standing:
        return False
    before, subscription.standing = subscription.standing, standing
    session.flush()  # the gate reads the row once the change is known
    organizations.changed(session, organization_id)
    kind, status, reason = _REPORTED[standing]
    organization = organizations.get(session, organization_id)
    session.refresh(organization, ["generation"])
    data = {
        "object": "organization",
        "id": wire_id("org", organization_id),
        "status": status,
        "reason": reason,
    }
    webhooks.publish(session, organization_id, kind, webhooks.Subject(organization_id, organization.generation), data)
    moved = {"before": {"standing": before}, "after": {"standing": standing}}
    audit.record(session, organization_id, audit.SYSTEM, kind, ("organization", organization_id), moved)
    return True


def _locked(session: Session, organization_id: UUID) -> Subscription:
    statement = select(Subscription).where(Subscription.organization_id == organization_id)
    return session.scalars(statement.with_for_update().execution_options(populate_existing=True)).one()
