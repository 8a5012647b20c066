"""Organizations: create, update, suspend, resume, close, and the generation that invalidates cached principals."""

import contextlib
import functools
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit, billing_email, members
from saas_api.accounts.audit import Actor
from saas_api.accounts.models import Membership, Organization, OrganizationStatus
from saas_api.core import clock, formatting, ids, time_zones
from saas_api.core.access import Principal
from saas_api.core.db import cells, engine, tenancy
from saas_api.core.db.prepared import Statement
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound, ValidationFailed
from saas_api.core.limits import limiter
from saas_api.core.roles import ADMIN_ROLES, MemberRole
from saas_api.mail import mails

MIN_REASON_LENGTH = 10
MAX_EXTERNAL_ID_LENGTH = 255
REPUBLISH_WINDOW_MINUTES = 5
_BUMP_GENERATIONS = sa.text("""
UPDATE organizations SET generation = generation + 1, generation_at = now() WHERE id = ANY (:ids)
RETURNING id, generation
""")
_LIST_RECENT_GENERATIONS = sa.text("""
SELECT id, generation FROM organizations WHERE generation_at > now() - make_interval(mins => :minutes)
""")
_RELEASE_EXTERNAL_IDS = """
DELETE FROM external_ids WHERE owner_id = %(released_of)s AND external_id IS DISTINCT FROM CAST(%(kept)s AS text)
"""
# The update changes nothing: without it a row that exists would not be returned.
_RESERVE_EXTERNAL_ID = """
INSERT INTO external_ids AS e (external_id, owner_id) VALUES (%(reserved)s, %(reserved_for)s)
ON CONFLICT (external_id) DO UPDATE SET owner_id = e.owner_id RETURNING owner_id
"""


class OrganizationNotFound(NotFound):
    """The organization does not exist, or the caller is not a member."""


class NotSuspendable(Conflict):
    """The organization is suspended already, or closed."""

    code, message = "ORGANIZATION_NOT_ACTIVE", "This organization is not active, so it cannot be suspended."


class NotSuspended(Conflict):
    """No operator has suspended the organization. A suspension for overdue invoices ends when they are paid."""

    code, message = "ORGANIZATION_NOT_SUSPENDED", "No operator has suspended this organization."


class ExternalIdTaken(Conflict):
    """Another organization has this external id."""

    code, message = "EXTERNAL_ID_TAKEN", "Another organization has this external id."
    constraint = "organizations_external_id_key"


class OrganizationClosed(Conflict):
    """The organization is closed: its members read and pay, and nothing new begins."""

    code, message = "ORGANIZATION_CLOSED", "This organization is closed; you can read, and pay its invoices."


PERMITTED_WHEN_CLOSED = (None, "billing:read", "billing:write", "organization:write", "organization:close")
"""Permissions with which members of a closed organization still change something."""


def get_organization(session: Session, organization_id: UUID) -> Organization:
    """An organization.

    raises: OrganizationNotFound
    """
    organization = session.get(Organization, organization_id)
    if organization is None:
        raise OrganizationNotFound
    return organization


@contextlib.contextmanager
def localized(session: Session, organization_id: UUID) -> Iterator[Organization]:
    """Write numbers, amounts and times by the locale of an organization until the end of the block; yields it.

    raises: OrganizationNotFound
    """
    organization = get_organization(session, organization_id)
    with formatting.localized(organization.locale):
        yield organization


def validate_reason(reason: str) -> str:
    """The reason of an operator's action, stripped.

    raises: ValidationFailed when it is shorter than MIN_REASON_LENGTH
    """
    stripped = reason.strip()
    if len(stripped) < MIN_REASON_LENGTH:
        raise ValidationFailed.at_field("reason", f"Say why, in at least {MIN_REASON_LENGTH} characters.")
    return stripped


def create_organization(session: SystemSession, name: str, owner_id: UUID, timezone: str | None = None) -> Organization:
    """Create an organization with its owner.

    timezone: IANA name; an unknown one becomes UTC
    """
    now, zone = clock.now(), "UTC"
    with contextlib.suppress(ValueError):
        zone = time_zones.get_zone(timezone or zone).key
    organization = Organization(name=name, slug=_generate_slug(name), timezone=zone, created_at=now, updated_at=now)
    session.add(organization)
    session.flush()  # the membership refers to it
    session.add(Membership(organization_id=organization.id, user_id=owner_id, role=MemberRole.OWNER))
    return organization


def create_own_organization(principal: Principal, name: str, timezone: str | None) -> Organization:
    """Create another organization of the caller, its owner, in a transaction of its own.

    timezone: IANA name; None for UTC
    """
    with tenancy.system_session("auth.organizations") as session:
        organization = create_organization(session, name, principal.id, timezone)
        target, actor = ("organization", organization.id), Actor("user", str(principal.id))
        audit.record_event(session, organization.id, actor, "organization.created", target, {"name": name})
        return organization


def update_organization(session: Session, principal: Principal, values: Mapping[str, str | None]) -> Organization:
    """Change the name, billing email, locale or time zone; a time zone applies from the next billing period.

    A new billing address gets a link, and no other mail until that is opened.
    values: by attribute name; attributes that are left out stay
    raises: TooManyRequests for too many billing addresses, access.EmailNotVerified
    """
    organization = session.get_one(Organization, principal.organization_id, with_for_update=True)
    after = {name: value for name, value in values.items() if getattr(organization, name) != value}
    if after:
        before = {name: getattr(organization, name) for name in after}
        for name, value in after.items():
            setattr(organization, name, value)
        organization.updated_at = clock.now()
        if "billing_email" in after:
            organization.billing_email_verified_at = None
            if organization.billing_email:
                billing_email.send_link(session, principal, organization)
        target, change = ("organization", organization.id), {"before": before, "after": after}
        actor = audit.actor_for(principal)
        audit.record_event(session, organization.id, actor, "organization.changed", target, change)
    return organization


def suspend(session: SystemSession, organization_id: UUID, actor: Actor, reason: str) -> None:
    """Suspend an organization: its API keys are rejected from the next request on; members still sign in and pay.

    raises: OrganizationNotFound, NotSuspendable, ValidationFailed for a short reason
    """
    organization = _lock(session, organization_id)
    if organization.status != OrganizationStatus.ACTIVE:
        raise NotSuspendable
    _set_status(session, organization, OrganizationStatus.SUSPENDED, actor, validate_reason(reason))


def resume(session: SystemSession, organization_id: UUID, actor: Actor, reason: str) -> None:
    """End the suspension by an operator; a suspension for overdue invoices remains.

    raises: OrganizationNotFound, NotSuspended, ValidationFailed for a short reason
    """
    organization = _lock(session, organization_id)
    if organization.status != OrganizationStatus.SUSPENDED:
        raise NotSuspended
    _set_status(session, organization, OrganizationStatus.ACTIVE, actor, validate_reason(reason))


def close(session: SystemSession, organization_id: UUID, at: datetime, actor: Actor, reason: str) -> Organization:
    """Close an organization for good; the caller ends its keys and periods in the same transaction.

    reason: of an operator, for the audit log; empty for a member
    raises: OrganizationNotFound, OrganizationClosed
    """
    organization = _lock(session, organization_id)
    if organization.status == OrganizationStatus.CLOSED:
        raise OrganizationClosed
    status_before, organization.status, organization.closed_at = organization.status, OrganizationStatus.CLOSED, at
    organization.updated_at = at
    session.flush()  # the gate reads the row as soon as the generation is published
    bump_generation(session, organization.id)
    data = {"before": {"status": status_before}, "after": {"status": organization.status}}
    target = ("organization", organization.id)
    audit.record_event(
        session,
        organization.id,
        actor,
        "organization.closed",
        target,
        {**data, **({"reason": reason} if reason else {})},
    )
    return organization


def set_external_id(organization_id: UUID, external_id: str | None, actor: Actor, reason: str = "") -> Organization:
    """Set the name by which services know an organization, or remove it with None, in the current cell. Idempotent.

    An external id is reserved at home before the cell commits it, and the one of before is released afterwards, so no
    two organizations have one at any time. What a killed call has reserved too much is released by the next one.
    external_id: 1 to 255 printable characters, not in the form of our own ids of organizations and keys
    reason: of an operator, for the audit log
    raises: OrganizationNotFound, ExternalIdTaken, ValidationFailed
    """
    if external_id is not None:
        _check_external_id(external_id)
    with tenancy.system_session("organizations.external_ids") as session:
        organization = _lock(session, organization_id)
        if external_id is not None:
            _reserve_external_id(organization_id, external_id)
        _write_external_id(session, organization, external_id, actor, reason)
    _release_external_ids(organization_id)
    return organization


def _write_external_id(
    session: SystemSession, organization: Organization, external_id: str | None, actor: Actor, reason: str
) -> None:
    before, organization.external_id = organization.external_id, external_id
    if before == external_id:
        return
    organization.updated_at = clock.now()
    session.flush()  # the gate reads the row as soon as the generation is published
    bump_generation(session, organization.id)
    change = {"before": {"external_id": before}, "after": {"external_id": external_id}}
    data = {**change, **({"reason": reason} if reason else {})}
    audit.record_event(session, organization.id, actor, "organization.changed", ("organization", organization.id), data)


def _reserve_external_id(organization_id: UUID, external_id: str) -> None:
    """Reserve an external id in the directory at home, committed when this returns.

    raises: ExternalIdTaken
    """
    reserve = _RESERVE_EXTERNAL_ID, {"reserved": external_id, "reserved_for": organization_id}
    [(owner_id,)] = _change_directory(reserve)
    if owner_id != organization_id:
        raise ExternalIdTaken


def _release_external_ids(organization_id: UUID) -> None:
    """Release what is reserved beside the external id that an organization has, unless it has left this cell.

    The lock on its row keeps out other changes of it, whose reservations are not in the row yet.
    """
    find = sa.select(Organization.external_id).where(Organization.id == organization_id).with_for_update(key_share=True)
    with tenancy.system_session("organizations.external_ids") as session:
        for kept in session.scalars(find):
            _change_directory((_RELEASE_EXTERNAL_IDS, {"released_of": organization_id, "kept": kept}))


def _change_directory(statement: Statement) -> Sequence[Any]:
    """Run a statement at home, committed when this returns, beside the connection of the caller's transaction.

    Its connection is one of those for batches, which nothing keeps while it waits for another one.
    """
    with cells.use(None):
        return engine.execute_batch([tenancy.system_scope_statement("organizations.directory"), statement])


def _check_external_id(external_id: str) -> None:
    if not 1 <= len(external_id) <= MAX_EXTERNAL_ID_LENGTH or not external_id.isprintable():
        raise ValidationFailed.at_field("external_id", f"Write 1 to {MAX_EXTERNAL_ID_LENGTH} printable characters.")
    if ids.is_public_id(external_id, "org", "key"):
        raise ValidationFailed.at_field("external_id", "Must not look like an id of this application.")


def bump_generation(session: Session, organization_id: UUID) -> None:
    """Increment the generation; after the commit no process uses a cached principal of the organization any more."""
    bump_generations(session, [organization_id])


def bump_generations(session: Session, organization_ids: Collection[UUID]) -> None:
    """As `bump_generation`, of several organizations that the session sees."""
    for row in session.execute(_BUMP_GENERATIONS, {"ids": list(organization_ids)}):
        key = limiter.generation_key(row.id)
        engine.after_commit(session, functools.partial(limiter.publish_generation, key, row.generation))


def republish_generations() -> None:
    """Publish the generations of the last minutes to Redis again, in case a publication was lost."""
    with tenancy.system_session("organizations.generations") as session:
        rows = session.execute(_LIST_RECENT_GENERATIONS, {"minutes": REPUBLISH_WINDOW_MINUTES}).all()
    for row in rows:
        limiter.publish_generation(limiter.generation_key(row.id), row.generation)


def _generate_slug(name: str) -> str:
    base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{base or 'organization'}-{secrets.token_hex(3)}"


def _lock(session: SystemSession, organization_id: UUID) -> Organization:
    # A request of the organization holds its key share, and may wait for this transaction.
    lock = {"key_share": True}
    organization = session.get(Organization, organization_id, with_for_update=lock, populate_existing=True)
    if organization is None:
        raise OrganizationNotFound
    return organization


def _set_status(
    session: SystemSession, organization: Organization, status: OrganizationStatus, actor: Actor, reason: str
) -> None:
    status_before, organization.status = organization.status, status
    organization.updated_at = clock.now()
    session.flush()  # the gate reads the row as soon as the generation is published
    bump_generation(session, organization.id)
    is_suspended = status == OrganizationStatus.SUSPENDED
    action = "organization.suspended" if is_suspended else "organization.resumed"
    data = {"before": {"status": status_before}, "after": {"status": status}, "reason": reason}
    audit.record_event(session, organization.id, actor, action, ("organization", organization.id), data)
    template = "stopped_by_operator" if is_suspended else "resumed_by_operator"
    for recipient in members.list_recipients(session, organization.id, ADMIN_ROLES):
        context = {"name": recipient.name, "organization": organization.name, "reason": reason}
        mails.enqueue(session, template, recipient.email, organization_id=organization.id, **context)
