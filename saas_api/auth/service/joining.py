"""Joining by an invitation's link: its token proves the address, a password proves who has an account."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from saas_api.auth.service import entrance, verification
from saas_api.auth.service.passwords import acceptable_hash
from saas_api.auth.service.sessions import InvalidCredentials, Origin, SignedIn, begin
from saas_api.core.errors import Invalid
from saas_api.core.tenancy import as_system
from saas_api.organizations import service as organizations
from saas_api.users import service as users
from saas_api.users.models import User


@dataclass(frozen=True)
class Invited:
    """What an invitation says to who opens its link.

    inviter: name or address
    has_account: whether the address is somebody's already
    """

    email: str
    role: str
    organization: str
    inviter: str
    has_account: bool
    expires_at: datetime


def look_at_invitation(token: str) -> Invited:
    """Who invites whom, and to what; nothing is spent.

    raises: InvalidOneTimeToken
    """
    with as_system("auth.join") as session:
        found = organizations.invitation_of(session, token)
        inviter = users.find(session, found.invited_by)
        return Invited(
            found.email,
            found.role,
            organizations.get(session, found.organization_id).name,
            (inviter.full_name or inviter.email) if inviter else "a member",
            users.find_by_email(session, found.email) is not None,
            found.expires_at,
        )


def join(token: str, password: str | None, full_name: str, origin: Origin) -> SignedIn:
    """Accept an invitation and sign in; whoever has no account gets one with that password and name.

    raises: InvalidOneTimeToken; InvalidCredentials for an account's owner without its password; Invalid on password
        for who has no account; organizations.UserExists, users.EmailTaken when two join at once
    """
    with as_system("auth.join") as session:
        email = organizations.invitation_of(session, token).email
        has_account = users.find_by_email(session, email) is not None
    if not has_account:
        return _join_anew(token, email, password, full_name, origin)
    if password is None:
        raise InvalidCredentials("There is an account with this address; send its password.")
    found, renewed = entrance.prove(email, password)
    with as_system("auth.join") as session:
        user = entrance.confirm(session, found, renewed)
        entrance.tell_if_new(session, user, origin)
        return _enter(session, user, token, origin)


def _join_anew(token: str, email: str, password: str | None, full_name: str, origin: Origin) -> SignedIn:
    if password is None:
        raise Invalid.at("password", "Choose a password for your account.")
    password_hash = acceptable_hash(password, "password", email, full_name)
    with as_system("auth.join") as session:
        organizations.invitation_of(session, token)  # held: of two who answer at once the second finds it answered
        user = users.add(session, email, password_hash, full_name)
        return _enter(session, user, token, origin)


def _enter(session: Session, user: User, token: str, origin: Origin) -> SignedIn:
    organization, role = organizations.accept(session, token, user.id)
    verification.believe(session, user)
    return begin(session, user, organization, role, origin)
