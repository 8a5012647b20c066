"""Register, log_in, accept_and_log_in, notify_new_sign_in."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.accounts import audit, invitations, members, operators, organizations, passwords, sessions, users
from saas_api.accounts.models import User
from saas_api.accounts.sessions import InvalidCredentials, SessionOrigin, SessionStarted
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.errors import Forbidden, ValidationFailed
from saas_api.mail import mails


class NoMembership(Forbidden):
    """The account is right and belongs to no organization."""

    code, message = "NO_ORGANIZATION", "This account does not belong to an organization."


def register(
    organization_name: str,
    email: str,
    password: str,
    full_name: str,
    origin: SessionOrigin,
    *,
    timezone: str | None = None,
) -> SessionStarted:
    """Make a person, their organization and a session, together or not at all; two mails welcome them.

    timezone: of the organization; UTC where it is none
    raises: Invalid on password, users.EmailTaken
    """
    password_hash = passwords.hash_new_password(password, "password", email, organization_name, full_name)
    with tenancy.system_session("auth.register") as session:
        user = users.create_with_hash(session, email, password_hash, full_name)
        organization = organizations.create(session, organization_name, user.id, timezone)
        audit.record_user_event(session, organization.id, user.id, "user.registered", {"email": user.email})
        mails.enqueue(session, "welcome", user.email, organization=organization.name, name=full_name)
        users.send_verification_email(session, user)
        return sessions.start_session(session, user, organization, "owner", origin)


def log_in(
    email: str, password: str, organization_id: UUID | None, origin: SessionOrigin, *, is_office_enough: bool = False
) -> SessionStarted:
    """Open a session in the given organization, or in the one the person joined first.

    is_office_enough: an operator who belongs to no organization gets a session without one
    raises: InvalidCredentials, NoOrganization, Invalid when the person does not belong to the given one
    """
    found, renewed = verify_credentials(email, password)
    with tenancy.system_session("auth.sign_in") as session:
        user = lock_verified_user(session, found, renewed)
        belongings = members.list_memberships(session, user.id)
        if not belongings:
            if not is_office_enough or operators.find_operator_role(session, user.id) is None:
                raise NoMembership
            notify_new_sign_in(session, user, origin)
            return sessions.start_session(session, user, None, None, origin)
        chosen = [pair for pair in belongings if organization_id in (None, pair[0].id)]
        if not chosen:
            raise ValidationFailed.at_field("organization_id", "You do not belong to that organization.")
        notify_new_sign_in(session, user, origin)
        return sessions.start_session(session, user, *chosen[0], origin)


def verify_credentials(email: str, password: str) -> tuple[User, str | None]:
    """Compare a password; slow, so outside of transactions.

    returns: whose it is, and the hash to store from now on if theirs is of old parameters
    raises: InvalidCredentials, after the attempt was written down
    """
    password = passwords.normalize_password(password)
    with tenancy.system_session("auth.sign_in") as session:
        found = users.find_by_email(session, email)
    if not users.verify_password(found, password) or found is None:
        audit.record_failed_login(found, email, "user.sign_in_failed")
        raise InvalidCredentials
    return found, users.rehash_if_outdated(found, password)


def lock_verified_user(session: Session, found: User, renewed: str | None) -> User:
    """The person whose password was compared, held.

    raises: InvalidCredentials when it changed meanwhile or they were disabled
    """
    user = users.lock_verified(session, found, renewed)
    if user is None:
        raise InvalidCredentials
    return user


def notify_new_sign_in(session: Session, user: User, origin: SessionOrigin) -> None:
    """Write to a person about a sign-in from an address none of their sessions came from."""
    if sessions.has_session_from(session, user.id, origin.ip):
        return
    mails.enqueue(
        session,
        "new_sign_in",
        user.email,
        name=user.full_name,
        at=clock.now(),
        ip=origin.ip,
        user_agent=origin.user_agent,
    )


@dataclass(frozen=True)
class InvitationPreview:
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


def get_invitation_preview(token: str) -> InvitationPreview:
    """Who invites whom, and to what; nothing is spent.

    raises: InvalidOneTimeToken
    """
    with tenancy.system_session("auth.join") as session:
        found = invitations.lock_by_token(session, token)
        inviter = users.find_user(session, found.invited_by)
        return InvitationPreview(
            found.email,
            found.role,
            organizations.get(session, found.organization_id).name,
            (inviter.full_name or inviter.email) if inviter else "a member",
            users.find_by_email(session, found.email) is not None,
            found.expires_at,
        )


def accept_and_log_in(token: str, password: str | None, full_name: str, origin: SessionOrigin) -> SessionStarted:
    """Accept an invitation and sign in; whoever has no account gets one with that password and name.

    raises: InvalidOneTimeToken; InvalidCredentials for an account's owner without its password; Invalid on password
        for who has no account; organizations.UserExists, users.EmailTaken when two join at once
    """
    with tenancy.system_session("auth.join") as session:
        email = invitations.lock_by_token(session, token).email
        has_account = users.find_by_email(session, email) is not None
    if not has_account:
        return _create_user_and_join(token, email, password, full_name, origin)
    if password is None:
        raise InvalidCredentials("There is an account with this address; send its password.")
    found, renewed = verify_credentials(email, password)
    with tenancy.system_session("auth.join") as session:
        user = lock_verified_user(session, found, renewed)
        notify_new_sign_in(session, user, origin)
        return _log_in(session, user, token, origin)


def _create_user_and_join(
    token: str, email: str, password: str | None, full_name: str, origin: SessionOrigin
) -> SessionStarted:
    if password is None:
        raise ValidationFailed.at_field("password", "Choose a password for your account.")
    password_hash = passwords.hash_new_password(password, "password", email, full_name)
    with tenancy.system_session("auth.join") as session:
        invitations.lock_by_token(session, token)  # held: of two who answer at once the second finds it answered
        user = users.create_with_hash(session, email, password_hash, full_name)
        return _log_in(session, user, token, origin)


def _log_in(session: Session, user: User, token: str, origin: SessionOrigin) -> SessionStarted:
    organization, role = invitations.accept_invitation(session, token, user.id)
    users.mark_email_verified(session, user)
    return sessions.start_session(session, user, organization, role, origin)
