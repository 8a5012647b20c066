"""The operators' own log: what they did to the platform and to organizations, and why."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.admin.queries.paging import page_of
from saas_api.core.fields import Page
from saas_api.organizations.models import AuditEvent, Organization
from saas_api.users.models import User


def entries(session: Session, query: dict[str, Any]) -> Page:
    """A page of `AuditEvent` that belong to no organization alone, newest first.

    query: limit, cursor, format; action: whole, or the part before the dot; email: of the operator; since, until:
        instants, the second excluded
    raises: Invalid
    """
    wanted = sa.select(AuditEvent).where(AuditEvent.organization_id.is_(None))
    if action := query["action"]:
        of_room = AuditEvent.action.startswith(f"{action}.", autoescape=True)
        wanted = wanted.where(sa.or_(AuditEvent.action == action, of_room))
    if query["email"]:
        acting = sa.select(sa.cast(User.id, sa.Text)).where(sa.func.lower(User.email) == query["email"].lower())
        wanted = wanted.where(AuditEvent.actor_id.in_(acting))
    if query["since"]:
        wanted = wanted.where(AuditEvent.at >= query["since"])
    if query["until"]:
        wanted = wanted.where(AuditEvent.at < query["until"])
    found = page_of(session, wanted, query, (AuditEvent.id,))
    return Page([row[0] for row in found.items], found.next_cursor, found.limit)


def names(session: Session, events: Collection[AuditEvent]) -> dict[str, str]:
    """What operators and organizations of these entries are called, by id."""
    ids = [*(event.actor_id for event in events), *(event.target_id for event in events)]
    people = [UUID(found) for found in ids if found and _is_uuid(found)]
    places = [UUID(event.data["organization"]) for event in events if _is_uuid(event.data.get("organization"))]
    found = sa.union_all(
        sa.select(sa.cast(User.id, sa.Text), User.email).where(User.id.in_(people)),
        sa.select(sa.cast(Organization.id, sa.Text), Organization.name).where(Organization.id.in_(places)),
    )
    return dict(session.execute(found).all())


def _is_uuid(value: Any) -> bool:
    try:
        UUID(str(value))
    except ValueError:
        return False
    return True
