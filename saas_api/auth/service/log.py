"""What the log of acts keeps of this room; what concerns a person is told to every organization they belong to."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import crypto
from saas_api.core.ids import new_id
from saas_api.core.tenancy import as_system
from saas_api.organizations.models import Membership
from saas_api.organizations.service import audit
from saas_api.users.models import User

Data = Mapping[str, Any]


def note(session: Session, organization_id: UUID | None, user_id: UUID, action: str, data: Data | None = None) -> None:
    """Write what a person did to themselves in one organization, or as an operator in none."""
    audit.record(session, organization_id, audit.Actor("user", str(user_id)), action, ("user", user_id), data)


def note_everywhere(session: Session, user_id: UUID, action: str, data: Data | None = None) -> None:
    """Write what a person did to themselves, wherever they belong."""
    for organization_id in _organizations(session, user_id):
        actor = audit.Actor("user", str(user_id))
        audit.record(session, organization_id, actor, action, ("user", user_id), data)


def note_failure(user: User | None, email: str, action: str) -> None:
    """Write that somebody gave a wrong password, in a transaction of its own: the refusal rolls back every other.

    user: None when nobody has the address, of which a digest is kept; the same is asked of the database then
    """
    target = ("user", str(user.id)) if user else ("address", crypto.mac("throttle", email.lower())[:32])
    with as_system("auth.failure") as session:
        for organization_id in _organizations(session, user.id if user else new_id()):
            audit.record(session, organization_id, audit.SYSTEM, action, target)


def _organizations(session: Session, user_id: UUID) -> list[UUID | None]:
    found = session.scalars(sa.select(Membership.organization_id).where(Membership.user_id == user_id)).all()
    return [*found] or [None]
