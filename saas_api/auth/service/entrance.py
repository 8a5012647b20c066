"""Signing up, and signing in."""

from uuid import UUID

from sqlalchemy.orm import Session

from saas_api import mail
from saas_api.auth import queries
from saas_api.auth.rules import normal_password
from saas_api.auth.service import log, verification
from saas_api.auth.service.passwords import acceptable_hash
from saas_api.auth.service.sessions import InvalidCredentials, Origin, SignedIn, begin
from saas_api.core import clock
from saas_api.core.errors import Forbidden, Invalid
from saas_api.core.tenancy import as_system
from saas_api.organizations import service as organizations
from saas_api.users import service as users
from saas_api.users.models import User


class NoOrganization(Forbidden):
    """The account is right and belongs to no organization."""

    code, message = "NO_ORGANIZATION", "This account does not belong to an organization."


def register(
    organization_name: str, email: str, password: str, full_name: str, origin: Origin, *, timezone: str | None = None
) -> SignedIn:
    """Make a person, their organization and a session, together or not at all; two mails welcome them.

    timezone: of the organization; UTC where it is none
    raises: Invalid on password, users.EmailTaken
    """
    password_hash = acceptable_hash(password, "password", email, organization_name, full_name)
    with as_system("auth.register") as session:
        user = users.add(session, email, password_hash, full_name)
        organization = organizations.create(session, organization_name, user.id, timezone)
        log.note(session, organization.id, user.id, "user.registered", {"email": user.email})
        mail.send(session, "welcome", user.email, organization=organization.name, name=full_name)
        verification.send_link(session, user)
        return begin(session, user, organization, "owner", origin)


def sign_in(
    email: str, password: str, organization_id: UUID | None, origin: Origin, *, is_office_enough: bool = False
) -> SignedIn:
    """Open a session in the given organization, or in the one the person joined first.

    is_office_enough: an operator who belongs to no organization gets a session without one
    raises: InvalidCredentials, NoOrganization, Invalid when the person does not belong to the given one
    """
    found, renewed = prove(email, password)
    with as_system("auth.sign_in") as session:
        user = confirm(session, found, renewed)
        belongings = queries.belongings(session, user.id)
        if not belongings:
            if not is_office_enough or users.office_of(session, user.id) is None:
                raise NoOrganization
            tell_if_new(session, user, origin)
            return begin(session, user, None, None, origin)
        chosen = [pair for pair in belongings if organization_id in (None, pair[0].id)]
        if not chosen:
            raise Invalid.at("organization_id", "You do not belong to that organization.")
        tell_if_new(session, user, origin)
        return begin(session, user, *chosen[0], origin)


def prove(email: str, password: str) -> tuple[User, str | None]:
    """Compare a password; slow, so outside of transactions.

    returns: whose it is, and the hash to store from now on if theirs is of old parameters
    raises: InvalidCredentials, after the attempt was written down
    """
    password = normal_password(password)
    with as_system("auth.sign_in") as session:
        found = users.find_by_email(session, email)
    if not users.check_password(found, password) or found is None:
        log.note_failure(found, email, "user.sign_in_failed")
        raise InvalidCredentials
    return found, users.renewed_hash(found, password)


def confirm(session: Session, found: User, renewed: str | None) -> User:
    """The person whose password was compared, held.

    raises: InvalidCredentials when it changed meanwhile or they were disabled
    """
    user = users.confirm(session, found, renewed)
    if user is None:
        raise InvalidCredentials
    return user


def tell_if_new(session: Session, user: User, origin: Origin) -> None:
    """Write to a person about a sign-in from an address none of their sessions came from."""
    if queries.has_been_at(session, user.id, origin.ip):
        return
    mail.send(
        session,
        "new_sign_in",
        user.email,
        name=user.full_name,
        at=clock.now(),
        ip=origin.ip,
        user_agent=origin.user_agent,
    )
