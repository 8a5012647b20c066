"""Reads of the team and of the log of acts: who is behind the ids it keeps."""

from collections.abc import Iterable
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core.ids import wire_id
from saas_api.organizations.models import AuditEvent, Invitation
from saas_api.organizations.service import NoSuchInvitation

_PREFIXES = {
    "user": "usr",
    "operator": "usr",
    "api_key": "key",
    "organization": "org",
    "invitation": "ivt",
    "session": "ses",
    "message": "msg",
    "invoice": "inv",
    "payment": "pay",
    "subscription": "sub",
    "webhook_endpoint": "whe",
    "webhook_delivery": "whd",
    "webhook_event": "evt",
}
_USERS = sa.text("SELECT id, coalesce(nullif(full_name, ''), email) FROM users WHERE id = ANY (:ids)")
_KEYS = sa.text("SELECT id, name FROM api_keys WHERE organization_id = :organization_id AND id = ANY (:ids)")


def invitation(session: Session, organization_id: UUID, invitation_id: UUID) -> Invitation:
    """An invitation, answered or not.

    raises: NoSuchInvitation
    """
    found = session.get(Invitation, (organization_id, invitation_id))
    if found is None:
        raise NoSuchInvitation
    return found


def names(session: Session, organization_id: UUID, entries: Iterable[AuditEvent]) -> dict[str, str]:
    """What people who still belong, and keys, are called, by the id that entries keep of them."""
    asked: dict[str, set[UUID]] = {"user": set(), "api_key": set()}
    for entry in entries:
        for kind, key in ((entry.actor_type, entry.actor_id), (entry.target_type, entry.target_id)):
            found = _uuid(key)
            if found and kind in asked:
                asked[kind].add(found)
    known: dict[str, str] = {}
    for kind, statement in (("user", _USERS), ("api_key", _KEYS)):
        if asked[kind]:
            values = {"organization_id": organization_id, "ids": list(asked[kind])}
            known |= {str(row[0]): row[1] for row in session.execute(statement, values)}
    return known


def wire(kind: str, key: str | None) -> str:
    """An actor's or target's id as the API shows it; what is no id stays as it is."""
    found, prefix = _uuid(key), _PREFIXES.get(kind)
    return wire_id(prefix, found) if found and prefix else key or ""


def _uuid(key: str | None) -> UUID | None:
    try:
        return UUID(key) if key else None
    except ValueError:
        return None
