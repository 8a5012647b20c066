"""To whom an organization's invoices are addressed, from the next one that is finalized."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.billing.models import BillingProfile
from saas_api.billing.service.periods import ensure_account
from saas_api.core.access import Principal
from saas_api.organizations.service import audit


@dataclass(frozen=True)
class Buyer:
    """What an invoice says of the organization besides its name and billing e-mail.

    name: stands instead of the organization's name; None for that
    address: its lines
    """

    name: str | None
    address: Sequence[str]
    tax_id: str | None


def buyer_of(session: Session, organization_id: UUID) -> Buyer:
    """How an organization is named on its invoices."""
    ensure_account(session, organization_id)
    return _shown(session.get_one(BillingProfile, organization_id))


def set_buyer(session: Session, principal: Principal, buyer: Buyer) -> None:
    """Say how the organization is named on its invoices; finalized ones stay as they are."""
    ensure_account(session, principal.organization_id)
    profile = session.get_one(BillingProfile, principal.organization_id, with_for_update=True)
    before, after = asdict(_shown(profile)), asdict(buyer)
    changed = [name for name in after if before[name] != after[name]]
    if not changed:
        return
    kept = {name: value for name, value in profile.bill_to.items() if name not in ("name", "address")}
    named = {"name": buyer.name, "address": list(buyer.address)}
    profile.bill_to = {**{name: value for name, value in named.items() if value}, **kept}
    profile.tax_id = buyer.tax_id
    told = {"before": {name: before[name] for name in changed}, "after": {name: after[name] for name in changed}}
    target = ("organization", principal.organization_id)
    actor = audit.actor_of(principal)
    audit.record(session, principal.organization_id, actor, "billing_details.changed", target, told)


def _shown(profile: BillingProfile) -> Buyer:
    stored = profile.bill_to
    address = stored.get("address") or []
    lines = address.splitlines() if isinstance(address, str) else [str(line) for line in address]
    return Buyer(stored.get("name"), lines, profile.tax_id)
