"""Organizations and their members; `changed` makes a change act on the next request in every process."""

import contextlib
import re
import secrets
from collections.abc import Mapping
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import clock, tenancy
from saas_api.core.access import Principal
from saas_api.core.db import after_commit
from saas_api.core.errors import NotFound
from saas_api.core.limits import publish_generation
from saas_api.organizations.models import Membership, Organization
from saas_api.organizations.service import audit

REPUBLISHED_MINUTES = 5


class NoSuchOrganization(NotFound):
    """There is none, or the caller does not belong to it."""


def create(session: Session, name: str, owner_id: UUID, timezone: str | None = None) -> Organization:
    """Make an organization with its one owner.

    timezone: IANA name; UTC where there is none of that name
    """
    now, zone = clock.now(), "UTC"
    with contextlib.suppress(ValueError):
        zone = clock.zone(timezone or zone).key
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
        raise NoSuchOrganization
    return organization


def change(session: Session, principal: Principal, values: Mapping[str, str | None]) -> Organization:
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
        actor = audit.actor_of(principal)
        audit.record(session, organization.id, actor, "organization.changed", target, change_made)
    return organization


def changed(session: Session, organization_id: UUID) -> None:
    """Raise the generation, so that no process goes on with what it remembers of this organization."""
    raised = sa.text(
        """UPDATE organizations SET generation = generation + 1, generation_at = now()
           WHERE id = :id RETURNING generation"""
    )
    generation = session.execute(raised, {"id": organization_id}).scalar_one()
    after_commit(session, lambda: publish_generation(organization_id, generation))


def publish_generations() -> None:
    """Tell Redis again what changed in the last minutes, for a telling that was lost."""
    recent = sa.text(
        """SELECT id, generation FROM organizations WHERE generation_at > now() - make_interval(mins => :minutes)"""
    )
    with tenancy.as_system("organizations.generations") as session:
        rows = session.execute(recent, {"minutes": REPUBLISHED_MINUTES}).all()
    for row in rows:
        publish_generation(row.id, row.generation)


def _slug(name: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{words or 'organization'}-{secrets.token_hex(3)}"
