"""The operator's switch: an organization is suspended and let go on again, whatever it owes."""

from uuid import UUID

from sqlalchemy.orm import Session

from saas_api import mail
from saas_api.core import clock
from saas_api.core.errors import Conflict, Invalid
from saas_api.organizations import queries
from saas_api.organizations.models import Organization
from saas_api.organizations.service import audit
from saas_api.organizations.service.organizations import NoSuchOrganization, changed

SHORTEST_REASON = 10
_READERS = ("owner", "admin")


class NotSuspendable(Conflict):
    """The organization is suspended already, or closed."""

    code, message = "ORGANIZATION_NOT_ACTIVE", "This organization is not active, so it cannot be suspended."


class NotSuspended(Conflict):
    """The operator's switch is not set; what unpaid invoices have led to ends with their payment."""

    code, message = "ORGANIZATION_NOT_SUSPENDED", "No operator has suspended this organization."


def check_reason(reason: str) -> str:
    """The reason of an operator's act, without the blanks around it.

    raises: Invalid when it says nothing
    """
    told = reason.strip()
    if len(told) < SHORTEST_REASON:
        raise Invalid.at("reason", f"Say why, in at least {SHORTEST_REASON} characters.")
    return told


def suspend(session: Session, organization_id: UUID, actor: audit.Actor, reason: str) -> None:
    """Refuse an organization's keys from the next request on; its people still sign in, read and pay.

    session: of the system
    raises: NoSuchOrganization, NotSuspendable, Invalid for a short reason
    """
    organization = _locked(session, organization_id)
    if organization.status != "active":
        raise NotSuspendable
    _move(session, organization, "suspended", actor, check_reason(reason))


def resume(session: Session, organization_id: UUID, actor: audit.Actor, reason: str) -> None:
    """Take the operator's suspension back; what is overdue stays as it is.

    session: of the system
    raises: NoSuchOrganization, NotSuspended, Invalid for a short reason
    """
    organization = _locked(session, organization_id)
    if organization.status != "suspended":
        raise NotSuspended
    _move(session, organization, "active", actor, check_reason(reason))


def _locked(session: Session, organization_id: UUID) -> Organization:
    organization = session.get(Organization, organization_id, with_for_update=True, populate_existing=True)
    if organization is None:
        raise NoSuchOrganization
    return organization


def _move(session: Session, organization: Organization, status: str, actor: audit.Actor, reason: str) -> None:
    before, organization.status = organization.status, status
    organization.updated_at = clock.now()
    session.flush()  # the gate reads the row once the change is known
    changed(session, organization.id)
    action = "organization.suspended" if status == "suspended" else "organization.resumed"
    data = {"before": {"status": before}, "after": {"status": status}, "reason": reason}
    audit.record(session, organization.id, actor, action, ("organization", organization.id), data)
    template = "stopped_by_operator" if status == "suspended" else "resumed_by_operator"
    for reader in queries.recipients(session, organization.id, _READERS):
        words = {"name": reader.name, "organization": organization.name}
        mail.send(session, template, reader.email, organization_id=organization.id, **words)
