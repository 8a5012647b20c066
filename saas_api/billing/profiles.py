"""Billing details and standing of an organization."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from saas_api.accounts import audit, organizations
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import periods
from saas_api.billing.models import BillingProfile, BillingStanding, Subscription
from saas_api.core.access import Principal
from saas_api.core.db.tenancy import SystemSession
from saas_api.webhooks import organization_events


@dataclass(frozen=True)
class BillingDetails:
    """How invoices name an organization, besides its billing email.

    name: legal name; None for the name of the organization
    address: rows of the address
    """

    name: str | None
    address: Sequence[str]
    tax_id: str | None


def get_billing_details(session: Session, organization_id: UUID) -> BillingDetails:
    """Get the billing details of an organization."""
    periods.ensure_account(session, organization_id)
    return _details(session.get_one(BillingProfile, organization_id))


def set_billing_details(session: Session, principal: Principal, details: BillingDetails) -> None:
    """Change the billing details of the caller's organization; final invoices keep theirs."""
    periods.ensure_account(session, principal.organization_id)
    profile = session.get_one(BillingProfile, principal.organization_id, with_for_update=True)
    before, after = asdict(_details(profile)), asdict(details)
    changed = [name for name in after if before[name] != after[name]]
    if not changed:
        return
    other = {name: value for name, value in profile.bill_to.items() if name not in ("name", "address")}
    new = {"name": details.name, "address": list(details.address)}
    profile.bill_to = {**{name: value for name, value in new.items() if value}, **other}
    profile.tax_id = details.tax_id
    data = {"before": {name: before[name] for name in changed}, "after": {name: after[name] for name in changed}}
    target = ("organization", principal.organization_id)
    actor = audit.actor_for(principal)
    audit.record_event(session, principal.organization_id, actor, "billing_details.changed", target, data)


def _details(profile: BillingProfile) -> BillingDetails:
    stored = profile.bill_to
    address = stored.get("address") or []
    lines = address.splitlines() if isinstance(address, str) else [str(line) for line in address]
    return BillingDetails(stored.get("name"), lines, profile.tax_id)


_EVENT_BY_STANDING = {
    BillingStanding.GOOD: ("organization.resumed", None),
    BillingStanding.RESTRICTED: ("organization.restricted", "overdue"),
    BillingStanding.SUSPENDED: ("organization.suspended", "overdue"),
}


def lock_standing(session: SystemSession, organization_id: UUID) -> BillingStanding:
    """Get the standing and lock it until the transaction ends; read what decides about it after this call."""
    return _lock_subscription(session, organization_id).standing


def set_standing(session: SystemSession, organization_id: UUID, standing: str) -> bool:
    """Change the standing of an organization; a suspension by an operator is independent of it.

    standing: a value of `BillingStanding`
    returns: whether it was another one before
    """
    standing = BillingStanding(standing)
    subscription = _lock_subscription(session, organization_id)
    if subscription.standing == standing:
        return False
    before, subscription.standing = subscription.standing, standing
    session.flush()  # the gate reads the row as soon as it sees the new generation
    organizations.bump_generation(session, organization_id)
    event_type, reason = _EVENT_BY_STANDING[standing]
    organization_events.publish(session, organization_id, event_type, reason)
    changes = {"before": {"standing": before}, "after": {"standing": standing}}
    audit.record_event(session, organization_id, SYSTEM_ACTOR, event_type, ("organization", organization_id), changes)
    return True


def _lock_subscription(session: SystemSession, organization_id: UUID) -> Subscription:
    statement = select(Subscription).where(Subscription.organization_id == organization_id)
    return session.scalars(statement.with_for_update().execution_options(populate_existing=True)).one()
