"""Sign-up, sign-in, and accepting an invitation: each starts a session, in transactions of its own."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from saas_api.accounts import (
    audit,
    cell_copies,
    failed_logins,
    invitations,
    members,
    organizations,
    passwords,
    sessions,
    two_factor,
    user_agents,
    users,
)
from saas_api.accounts.models import User
from saas_api.accounts.sessions import InvalidCredentials, SessionOrigin, SessionStarted
from saas_api.core import clock
from saas_api.core.db import cells, tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import ValidationFailed
from saas_api.core.roles import MemberRole
from saas_api.mail import mails


@dataclass(frozen=True)
class InvitationPreview:
    """An invitation as its page shows it.

    inviter: name or address
    has_account: an account has the invited address
    """

    email: str
    role: str
    organization: str
    inviter: str
    has_account: bool
    expires_at: datetime


def get_invitation_preview(token: str) -> InvitationPreview:
    """The invitation of a token, which stays usable.

    raises: InvalidOneTimeToken
    """
    with cells.use(invitations.find_cell(token)), tenancy.system_session("auth.join") as session:
        invitation = invitations.lock_by_token(session, token)
        inviter = users.find_user(session, invitation.invited_by)
        return InvitationPreview(
            invitation.email,
            invitation.role,
            organizations.get_organization(session, invitation.organization_id).name,
            inviter.display_name if inviter else "a member",
            _has_account(session, invitation.email),
            invitation.expires_at,
        )


def _has_account(session: SystemSession, email: str) -> bool:
    """Whether an account has an address.

    session: in the current cell
    """
    if cells.current() is None:
        return users.find_by_email(session, email) is not None
    with tenancy.system_session("auth.sign_in") as home:
        return users.find_by_email(home, email) is not None


def verify_credentials(email: str, password: str) -> tuple[User, str | None]:
    """Verify a password. Slow, so call it outside of transactions.

    returns: the user, and a new hash to store when the parameters of the stored one are outdated
    raises: InvalidCredentials, after the failure was recorded in the audit log
    """
    password = passwords.normalize_password(password)
    with tenancy.system_session("auth.sign_in") as session:
        user = users.find_by_email(session, email)
    if not users.verify_password(user, password) or user is None:
        failed_logins.record_failure(user, email, "user.sign_in_failed")
        raise InvalidCredentials
    return user, users.rehash_if_outdated(user, password)


def lock_verified_user(session: SystemSession, verified_user: User, new_hash: str | None) -> User:
    """Lock a user whose password was verified, and store the new hash, if there is one.

    raises: InvalidCredentials when the password has changed since, or the user is disabled
    """
    user = users.lock_verified(session, verified_user, new_hash)
    if user is None:
        raise InvalidCredentials
    return user


def register(
    organization_name: str,
    email: str,
    password: str,
    full_name: str,
    origin: SessionOrigin,
    *,
    timezone: str | None = None,
) -> SessionStarted:
    """Create a user with an organization, start a session, and mail a welcome and a verification link.

    timezone: IANA name, of the organization; an unknown one becomes UTC
    raises: ValidationFailed on password, EmailTaken
    """
    password_hash = passwords.hash_new_password(password, "password", email, organization_name, full_name)
    with tenancy.system_session("auth.register") as session:
        user = users.create_with_hash(session, email, password_hash, full_name)
        organization = organizations.create_organization(session, organization_name, user.id, timezone)
        data = audit.values(email=user.email)
        audit.record_user_event(session, organization.id, user.id, "user.registered", data)
        mails.enqueue(session, "welcome", user.email)
        users.send_verification_email(session, user)
        return sessions.start_session(session, user, organization, MemberRole.OWNER, origin)


@dataclass(frozen=True)
class OrganizationChoice:
    """The organization of a session that begins.

    id: None for the one that the user joined first
    is_required: False takes the one joined first when the user is not a member of that
    """

    id: UUID | None = None
    is_required: bool = True


def log_in(
    email: str, password: str, choice: OrganizationChoice, origin: SessionOrigin, code: str | None = None
) -> SessionStarted:
    """Start a session in an organization, or without one for a user who is not a member of any.

    code: of two-factor sign-in; ignored for a user without it
    raises: InvalidCredentials; TwoFactorRequired without a code that is needed; InvalidTwoFactorCode; TooManyRequests;
        ValidationFailed when the user is not a member of the organization
    """
    verified_user, new_hash = verify_credentials(email, password)
    return _start_session(verified_user, new_hash, code, choice, origin)


def continue_log_in(challenge: str, code: str, choice: OrganizationChoice, origin: SessionOrigin) -> SessionStarted:
    """Start the session of a sign-in that TwoFactorRequired interrupted.

    challenge: of that error
    raises: SignInExpired, InvalidTwoFactorCode, InvalidCredentials, TooManyRequests, ValidationFailed as `log_in`
    """
    return _start_session(two_factor.verify_challenge(challenge), None, code, choice, origin)


def _start_session(
    verified_user: User, new_hash: str | None, code: str | None, choice: OrganizationChoice, origin: SessionOrigin
) -> SessionStarted:
    two_factor.verify(verified_user, code, origin)
    with tenancy.system_session("auth.sign_in") as session:
        user = lock_verified_user(session, verified_user, new_hash)
        memberships = members.list_memberships(session, user.id)
        matches = [pair for pair in memberships if choice.id in (None, pair[0].id)]
        if not matches and choice.is_required and choice.id is not None:
            raise ValidationFailed.at_field("organization_id", "You do not belong to that organization.")
        notify_new_sign_in(session, user, origin)
        organization, role = next(iter(matches or memberships), (None, None))
        return sessions.start_session(session, user, organization, role, origin)


def accept_and_log_in(
    token: str, password: str | None, full_name: str, origin: SessionOrigin, code: str | None = None
) -> SessionStarted:
    """Accept an invitation and start a session; for a new address, create a user with that password and name.

    code: of two-factor sign-in
    raises: InvalidOneTimeToken; InvalidCredentials when an account has the address and the password is missing or
        wrong; TwoFactorRequired, InvalidTwoFactorCode and TooManyRequests as `log_in`; ValidationFailed on the password
        of a new user; AlreadyMember and EmailTaken when two requests compete
    """
    cell = invitations.find_cell(token)
    with cells.use(cell), tenancy.system_session("auth.join") as session:
        invitation = invitations.lock_by_token(session, token)
        email, organization_name = (
            invitation.email,
            organizations.get_organization(session, invitation.organization_id).name,
        )
        has_account = _has_account(session, email)
    if not has_account:
        if password is None:
            raise ValidationFailed.at_field("password", "Choose a password for your account.")
        password_hash = passwords.hash_new_password(password, "password", email, full_name, organization_name)
        if cell is not None:
            return _join_in_cell(cell, token, _create_user(email, password_hash, full_name), origin)
        return _create_user_and_join(token, email, password_hash, full_name, origin)
    if password is None:
        raise InvalidCredentials("There is an account with this address; send its password.")
    verified_user, new_hash = verify_credentials(email, password)
    two_factor.verify(verified_user, code, origin)
    if cell is not None:
        return _join_in_cell(cell, token, verified_user, origin)
    with tenancy.system_session("auth.join") as session:
        user = lock_verified_user(session, verified_user, new_hash)
        notify_new_sign_in(session, user, origin)
        return _join(session, user, token, origin)


def notify_new_sign_in(session: SystemSession, user: User, origin: SessionOrigin) -> None:
    """Mail a user about a sign-in from an address that none of their sessions came from."""
    if sessions.has_session_from(session, user.id, origin.ip):
        return
    mails.enqueue(
        session,
        "new_sign_in",
        user.email,
        name=user.greeting_name,
        at=mails.format_time(clock.now(), "UTC"),  # a user may belong to organizations in several zones
        ip=origin.ip,
        browser=user_agents.describe(origin.user_agent) if user.email_verified else "",
    )


def _create_user_and_join(
    token: str, email: str, password_hash: str, full_name: str, origin: SessionOrigin
) -> SessionStarted:
    with tenancy.system_session("auth.join") as session:
        invitations.lock_by_token(session, token)  # the second of two concurrent requests finds it accepted
        user = users.create_with_hash(session, email, password_hash, full_name)
        return _join(session, user, token, origin)


def _create_user(email: str, password_hash: str, full_name: str) -> User:
    with tenancy.system_session("auth.register") as session:
        return users.create_with_hash(session, email, password_hash, full_name)


def _join_in_cell(cell: str, token: str, user: User, origin: SessionOrigin) -> SessionStarted:
    """Accept an invitation of an organization in a cell: a transaction there, and one at home that starts the session.

    A user of whom only the first ends is a member, and signs in; before it, the invitation can be accepted again.
    raises: as `accept_and_log_in`
    """
    cell_copies.copy_users(cell, [user.id])
    with cells.use(cell), tenancy.system_session("auth.join") as session:
        organization, role = invitations.accept_invitation(session, token, user.id)
    cell_copies.copy_organizations(cell, [organization.id])
    with tenancy.system_session("auth.sign_in") as session:
        user = lock_verified_user(session, user, None)
        users.mark_email_verified(session, user)
        notify_new_sign_in(session, user, origin)
        return sessions.start_session(session, user, organization, role, origin)


def _join(session: SystemSession, user: User, token: str, origin: SessionOrigin) -> SessionStarted:
    organization, role = invitations.accept_invitation(session, token, user.id)
    users.mark_email_verified(session, user)
    return sessions.start_session(session, user, organization, role, origin)
