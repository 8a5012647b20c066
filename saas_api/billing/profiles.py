"""Billing details and standing of an organization."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from saas_api.accounts import audit, organizations
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import periods
from saas_api.billing.models import BillingProfile, Subscription
from saas_api.core.access import Principal
from saas_api.webhooks import organization_events


@dataclass(frozen=True)
class BillingDetails:
    """What an invoice says of the organization besides its name and billing e-mail.

    name: stands instead of the organization's name; None for that
    address: its lines
    """

    name: str | None
    address: Sequence[str]
    tax_id: str | None


def get_billing_details(session: Session, organization_id: UUID) -> BillingDetails:
    """How an organization is named on its invoices."""
    periods.ensure_account(session, organization_id)
    return _audit_data(session.get_one(BillingProfile, organization_id))


def set_billing_details(session: Session, principal: Principal, buyer: BillingDetails) -> None:
    """Say how the organization is named on its invoices; finalized ones stay as they are."""
    periods.ensure_account(session, principal.organization_id)
    profile = session.get_one(BillingProfile, principal.organization_id, with_for_update=True)
    before, after = asdict(_audit_data(profile)), asdict(buyer)
    changed = [name for name in after if before[name] != after[name]]
    if not changed:
        return
    kept = {name: value for name, value in profile.bill_to.items() if name not in ("name", "address")}
    named = {"name": buyer.name, "address": list(buyer.address)}
    profile.bill_to = {**{name: value for name, value in named.items() if value}, **kept}
    profile.tax_id = buyer.tax_id
    told = {"before": {name: before[name] for name in changed}, "after": {name: after[name] for name in changed}}
    target = ("organization", principal.organization_id)
    actor = audit.actor_for(principal)
    audit.record_event(session, principal.organization_id, actor, "billing_details.changed", target, told)


def _audit_data(profile: BillingProfile) -> BillingDetails:
    stored = profile.bill_to
    address = stored.get("address") or []
    lines = address.splitlines() if isinstance(address, str) else [str(line) for line in address]
    return BillingDetails(stored.get("name"), lines, profile.tax_id)


_EVENT_BY_STANDING = {
    "good": ("organization.resumed", None),
    "restricted": ("organization.restricted", "overdue"),
    "suspended": ("organization.suspended", "overdue"),
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
    organizations.bump_generation(session, organization_id)
    kind, reason = _EVENT_BY_STANDING[standing]
    organization_events.publish(session, organization_id, kind, reason)
    moved = {"before": {"standing": before}, "after": {"standing": standing}}
    audit.record_event(session, organization_id, SYSTEM_ACTOR, kind, ("organization", organization_id), moved)
    return True


def _locked(session: Session, organization_id: UUID) -> Subscription:
    statement = select(Subscription).where(Subscription.organization_id == organization_id)
    return session.scalars(statement.with_for_update().execution_options(populate_existing=True)).one()
