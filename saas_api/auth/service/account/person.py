"""A person's name and other sessions, and when members were last here."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from saas_api.auth.models import UserSession
from saas_api.auth.service import log, sessions
from saas_api.auth.service.tokens import InvalidToken
from saas_api.core.access import NO_ORGANIZATION, Principal
from saas_api.core.tenancy import as_system
from saas_api.users import service as users


def rename(principal: Principal, full_name: str) -> None:
    """Set the name the caller goes by.

    raises: InvalidToken when they were disabled since the gate let them pass
    """
    with as_system("auth.account") as session:
        user = users.hold(session, principal.id)
        if user is None:
            raise InvalidToken
        if user.full_name != full_name:
            change = {"before": {"full_name": user.full_name}, "after": {"full_name": full_name}}
            user.full_name = full_name
            log.note_everywhere(session, user.id, "user.renamed", change)


def revoke_others(principal: Principal) -> int:
    """End every session of the caller but the one they are in.

    returns: how many ended
    """
    with as_system("auth.account") as session:
        ended = sessions.end_all(session, principal.id, "revoked by its owner", but=principal.session_id)
        if ended:
            place = None if principal.organization_id == NO_ORGANIZATION else principal.organization_id
            log.note(session, place, principal.id, "user.other_sessions_revoked", {"sessions": len(ended)})
    return len(ended)


def last_seen(user_ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """When each of these people last did something, in a session that has not been ended; others are left out."""
    latest = sa.func.max(UserSession.last_seen_at).label("at")
    statement = (
        sa.select(UserSession.user_id, latest)
        .where(UserSession.user_id.in_(user_ids), UserSession.revoked_at.is_(None))
        .group_by(UserSession.user_id)
    )
    with as_system("auth.account") as session:
        return {row.user_id: row.at for row in session.execute(statement)}
