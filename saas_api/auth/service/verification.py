"""Whether an address is its owner's: the token mailed to it comes back."""

from sqlalchemy.orm import Session

from saas_api import mail
from saas_api.auth.service import links, log
from saas_api.auth.service.tokens import InvalidToken
from saas_api.core import clock
from saas_api.core.access import Principal
from saas_api.core.errors import Conflict, InvalidOneTimeToken
from saas_api.core.tenancy import as_system
from saas_api.users import service as users
from saas_api.users.models import User

PURPOSE = "verify_email"


class AlreadyVerified(Conflict):
    """The address was verified before."""

    code, message = "ALREADY_VERIFIED", "This e-mail address is verified already."


def request_verification(principal: Principal) -> None:
    """Mail a new link to a person; older ones are void.

    raises: AlreadyVerified, InvalidToken when the person was disabled since the gate let them pass
    """
    with as_system("auth.verification") as session:
        user = users.hold(session, principal.id)
        if user is None:
            raise InvalidToken
        if user.email_verified_at is not None:
            raise AlreadyVerified
        send_link(session, user)


def verify_email(token: str) -> User:
    """Believe that a person reads the mail of their address.

    raises: InvalidOneTimeToken
    """
    with as_system("auth.verification") as session:
        user = users.hold(session, links.holder(session, PURPOSE, token))
        if user is None:
            raise InvalidOneTimeToken
        links.spend(session, PURPOSE, token)
        believe(session, user)
        return user


def send_link(session: Session, user: User) -> None:
    """Mail a person the link that proves their address."""
    token = links.issue(session, user.id, PURPOSE)
    mail.send(session, PURPOSE, user.email, token=token, name=user.full_name)


def believe(session: Session, user: User) -> None:
    """Write that an address was proven, and void the links that would prove it again."""
    if user.email_verified_at is None:
        user.email_verified_at = clock.now()
        links.void(session, user.id, PURPOSE)
        log.note_everywhere(session, user.id, "user.email_verified", {"email": user.email})
