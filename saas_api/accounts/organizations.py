"""Create, update, suspend, resume, bump_generation."""

import contextlib
import re
import secrets
from collections.abc import Mapping
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members
from saas_api.accounts.audit import Actor
from saas_api.accounts.models import Membership, Organization
from saas_api.core import clock
from saas_api.core.access import Principal
from saas_api.core.db import engine, tenancy
from saas_api.core.errors import Conflict, NotFound, ValidationFailed
from saas_api.core.limits import limiter
from saas_api.mail import mails

REPUBLISH_WINDOW_MINUTES = 5


class OrganizationNotFound(NotFound):
    """There is none, or the caller does not belong to it."""


def create(session: Session, name: str, owner_id: UUID, timezone: str | None = None) -> Organization:
    """Make an organization with its one owner.

    timezone: IANA name; UTC where there is none of that name
    """
    now, zone = clock.now(), "UTC"
    with contextlib.suppress(ValueError):
        zone = clock.get_zone(timezone or zone).key
    organization = Organization(name=name, slug=_slug(name), timezone=zone, created_at=now, updated_at=now)
    session.add(organization)
    session.flush()  # the membership refers to it
    session.add(Membership(organization_id=organization.id, user_id=owner_id, role="owner"))
    return organization


def get(session: Session, organization_id: UUID) -> Organization:
    """The organization.

    raises: NoSuchOrganization
    """
    organization = session.get(Organization, organization_id)
    if organization is None:
        raise OrganizationNotFound
    return organization


def update_organization(session: Session, principal: Principal, values: Mapping[str, str | None]) -> Organization:
    """Set an organization's name, billing e-mail or time zone; a zone acts from the next billing period.

    values: what is to be otherwise, by the column's name
    """
    organization = session.get_one(Organization, principal.organization_id, with_for_update=True)
    after = {name: value for name, value in values.items() if getattr(organization, name) != value}
    if after:
        before = {name: getattr(organization, name) for name in after}
        for name, value in after.items():
            setattr(organization, name, value)
        organization.updated_at = clock.now()
        target = ("organization", organization.id)
        change_made = {"before": before, "after": after}
        actor = audit.actor_for(principal)
        audit.record_event(session, organization.id, actor, "organization.changed", target, change_made)
    return organization


def bump_generation(session: Session, organization_id: UUID) -> None:
    """Raise the generation, so that no process goes on with what it remembers of this organization."""
    raised = sa.text(
        """UPDATE organizations SET generation = generation + 1, generation_at = now()
           WHERE id = :id RETURNING generation"""
    )
    generation = session.execute(raised, {"id": organization_id}).scalar_one()
    engine.after_commit(session, lambda: limiter.publish_generation(organization_id, generation))


def republish_generations() -> None:
    """Tell Redis again what changed in the last minutes, for a telling that was lost."""
    recent = sa.text(
        """SELECT id, generation FROM organizations WHERE generation_at > now() - make_interval(mins => :minutes)"""
    )
    with tenancy.system_session("organizations.generations") as session:
        rows = session.execute(recent, {"minutes": REPUBLISH_WINDOW_MINUTES}).all()
    for row in rows:
        limiter.publish_generation(row.id, row.generation)


def _slug(name: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{words or 'organization'}-{secrets.token_hex(3)}"


MIN_REASON_LENGTH = 10
OWNER_ROLES = ("owner", "admin")


class NotSuspendable(Conflict):
    """The organization is suspended already, or closed."""

    code, message = "ORGANIZATION_NOT_ACTIVE", "This organization is not active, so it cannot be suspended."


class NotSuspended(Conflict):
    """The operator's switch is not set; what unpaid invoices have led to ends with their payment."""

    code, message = "ORGANIZATION_NOT_SUSPENDED", "No operator has suspended this organization."


def validate_reason(reason: str) -> str:
    """The reason of an operator's act, without the blanks around it.

    raises: Invalid when it says nothing
    """
    told = reason.strip()
    if len(told) < MIN_REASON_LENGTH:
        raise ValidationFailed.at_field("reason", f"Say why, in at least {MIN_REASON_LENGTH} characters.")
    return told


def suspend(session: Session, organization_id: UUID, actor: Actor, reason: str) -> None:
    """Refuse an organization's keys from the next request on; its people still sign in, read and pay.

    session: of the system
    raises: NoSuchOrganization, NotSuspendable, Invalid for a short reason
    """
    organization = _locked(session, organization_id)
    if organization.status != "active":
        raise NotSuspendable
    _set_status(session, organization, "suspended", actor, validate_reason(reason))


def resume(session: Session, organization_id: UUID, actor: Actor, reason: str) -> None:
    """Take the operator's suspension back; what is overdue stays as it is.

    session: of the system
    raises: NoSuchOrganization, NotSuspended, Invalid for a short reason
    """
    organization = _locked(session, organization_id)
    if organization.status != "suspended":
        raise NotSuspended
    _set_status(session, organization, "active", actor, validate_reason(reason))


def _locked(session: Session, organization_id: UUID) -> Organization:
    organization = session.get(Organization, organization_id, with_for_update=True, populate_existing=True)
    if organization is None:
        raise OrganizationNotFound
    return organization


def _set_status(session: Session, organization: Organization, status: str, actor: Actor, reason: str) -> None:
    before, organization.status = organization.status, status
    organization.updated_at = clock.now()
    session.flush()  # the gate reads the row once the change is known
    bump_generation(session, organization.id)
    action = "organization.suspended" if status == "suspended" else "organization.resumed"
    data = {"before": {"status": before}, "after": {"status": status}, "reason": reason}
    audit.record_event(session, organization.id, actor, action, ("organization", organization.id), data)
    template = "stopped_by_operator" if status == "suspended" else "resumed_by_operator"
    for reader in members.list_recipients(session, organization.id, OWNER_ROLES):
        words = {"name": reader.name, "organization": organization.name}
        mails.enqueue(session, template, reader.email, organization_id=organization.id, **words)
