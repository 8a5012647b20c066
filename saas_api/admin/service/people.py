"""What operators do for people: end their sessions, and mail them a link to a new password."""

from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.admin.service.operators import acting, operator
from saas_api.auth import service as auth
from saas_api.auth.queries import belongings
from saas_api.auth.service.sessions import end_all
from saas_api.core.access import Principal
from saas_api.core.errors import NotFound
from saas_api.organizations import service as organizations
from saas_api.organizations.service import audit
from saas_api.users import service as users
from saas_api.users.models import User


def end_sessions(principal: Principal, user_id: UUID, reason: str) -> int:
    """End every session of somebody: their tokens are refused from the next request on.

    returns: how many ended
    raises: NotFound
    """
    with acting() as session:
        user = _person(session, user_id)
        ended = end_all(session, user.id, "ended by an operator")
        _note(session, principal, user, "user.sessions_ended", {"sessions": len(ended)}, reason)
    return len(ended)


def send_reset(principal: Principal, user_id: UUID, reason: str) -> None:
    """Mail somebody a link that sets their password, as if they had asked for it.

    raises: NotFound
    """
    with acting() as session:
        user = _person(session, user_id)
        _note(session, principal, user, "user.reset_requested", {}, reason)
    auth.request_password_reset(user.email)


def _person(session: Session, user_id: UUID) -> User:
    user = users.find(session, user_id)
    if user is None:
        raise NotFound
    return user


def _note(
    session: Session, principal: Principal, user: User, action: str, data: dict[str, object], reason: str
) -> None:
    told = {**data, "reason": organizations.check_reason(reason)}
    places: list[UUID | None] = [organization.id for organization, _ in belongings(session, user.id)]
    for place in places or [None]:
        audit.record(session, place, operator(principal), action, ("user", user.id), told)
