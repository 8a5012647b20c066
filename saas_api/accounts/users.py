"""Users: lookups, creation, name, password verification, and verification and change of the email address."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.orm import undefer

from saas_api.accounts import audit, email_changes, notices, one_time_tokens, sessions
from saas_api.accounts.models import EmailChange, Membership, TwoFactorSecret, User
from saas_api.accounts.notices import Notice, Recipient
from saas_api.accounts.one_time_tokens import RESET_PASSWORD_PURPOSE, VERIFY_EMAIL_PURPOSE
from saas_api.accounts.tokens import InvalidToken
from saas_api.core import access, clock, crypto
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, InvalidOneTimeToken, ValidationFailed
from saas_api.mail import mails

_CHANGE_REQUESTED = Notice(
    "A new email address was requested for your account",
    ["The change takes effect when the link sent to the new address is opened."],
    "Choose a new password now. This also stops the change.",
    "/forgot-password",
)


class AlreadyVerified(Conflict):
    """The address is verified already."""

    code, message = "ALREADY_VERIFIED", "This email address is verified already."


class EmailTaken(Conflict):
    """Another account has the address."""

    code, message = "EMAIL_TAKEN", "There is an account with this email address."
    constraint, field = "users_email", User.email.key


def find_user(session: SystemSession, user_id: UUID) -> User | None:
    """The user with that id, with the password hash."""
    return session.scalar(select(User).where(User.id == user_id).options(undefer(User.password_hash)))


def find_by_email(session: SystemSession, email: str) -> User | None:
    """The user with that address, with the password hash.

    email: as `normalize_email` writes it
    """
    return session.scalar(select(User).where(User.email == email).options(undefer(User.password_hash)))


def lock_user(session: SystemSession, user_id: UUID) -> User | None:
    """The user with that id, locked until the transaction ends; None when the user is disabled."""
    statement = select(User).where(User.id == user_id, User.disabled_at.is_(None))
    return session.scalar(statement.with_for_update(key_share=True).execution_options(populate_existing=True))


def disable_user(session: SystemSession, user: User) -> list[UUID]:
    """Keep a user out: sessions end, mailed links no longer work, and no sign-in succeeds. A repeat is allowed.

    Keys that the user created are the caller's to revoke.
    returns: ids of the ended sessions
    """
    # a sign-in or the creation of a key that runs now ends before, or finds the user disabled
    session.refresh(user, with_for_update=True)
    of_user = select(Membership.organization_id).where(Membership.user_id == user.id)
    session.execute(of_user.order_by(Membership.organization_id).with_for_update())
    user.disabled_at = user.disabled_at or clock.now()
    for purpose in (VERIFY_EMAIL_PURPOSE, RESET_PASSWORD_PURPOSE):
        one_time_tokens.revoke_tokens(session, user.id, purpose)
    email_changes.revoke(session, user.id)
    return sessions.end_sessions(session, user.id, "disabled by an operator")


def enable_user(session: SystemSession, user: User) -> bool:
    """Let a disabled user sign in again, with the password that they had.

    returns: whether the user was disabled
    """
    session.refresh(user, with_for_update=True)
    was_disabled = user.disabled_at is not None
    user.disabled_at = None
    return was_disabled


def verify_password(user: User | None, password: str) -> bool:
    """Compare a password in the same time for an unknown user. Slow, so call it outside of transactions."""
    is_right = crypto.verify_password(user.password_hash if user else None, password)
    return is_right and user is not None and user.disabled_at is None


def rehash_if_outdated(user: User, password: str) -> str | None:
    """A new hash of a verified password; None when the parameters of the stored hash are current."""
    return crypto.hash_password(password) if crypto.needs_rehash(user.password_hash) else None


def lock_verified(session: SystemSession, verified_user: User, new_hash: str | None) -> User | None:
    """Lock a user whose password was verified.

    new_hash: replaces the stored hash
    returns: None when the password has changed since, or the user is disabled
    """
    statement = select(User).where(
        User.id == verified_user.id, User.password_hash == verified_user.password_hash, User.disabled_at.is_(None)
    )
    user = session.scalar(statement.with_for_update(key_share=True))
    if user is not None and new_hash is not None:
        user.password_hash = new_hash
    return user


def create_user(session: SystemSession, email: str, password: str, full_name: str) -> User:
    """Create a user; hashes the password within the transaction.

    raises: EmailTaken
    """
    return create_with_hash(session, email, crypto.hash_password(password), full_name)


def create_with_hash(session: SystemSession, email: str, password_hash: str, full_name: str) -> User:
    """Create a user whose password was hashed before the transaction began.

    raises: EmailTaken
    """
    user = User(email=email, full_name=full_name, password_hash=password_hash)
    session.add(user)
    session.flush()  # EmailTaken, before anything else is created for the user
    return user


def get_user(principal: Principal) -> User:
    """The caller's user.

    raises: InvalidToken when the user was disabled since the request was authenticated
    """
    with tenancy.system_session("auth.account") as session:
        user = find_user(session, principal.id)
    if user is None:
        raise InvalidToken
    return user


@dataclass(frozen=True)
class AccountSettings:
    """A user, the change of address that waits for its link, and when two-factor sign-in was turned on."""

    user: User
    email_change: EmailChange | None
    two_factor_enabled_at: datetime | None


def get_settings(principal: Principal) -> AccountSettings:
    """What the caller may change about their account.

    raises: InvalidToken when the user was disabled since the request was authenticated
    """
    waits = sa.and_(EmailChange.user_id == User.id, EmailChange.expires_at > clock.now())
    statement = select(User, EmailChange, TwoFactorSecret.confirmed_at).where(User.id == principal.id)
    statement = statement.outerjoin(EmailChange, waits)
    statement = statement.outerjoin(TwoFactorSecret, TwoFactorSecret.user_id == User.id)
    with tenancy.system_session("auth.account") as session:
        row = session.execute(statement).first()
    if row is None:
        raise InvalidToken
    return AccountSettings(*row)


def update_name(principal: Principal, full_name: str) -> None:
    """Change the caller's full name, in a transaction of its own.

    raises: InvalidToken when the user was disabled since the request was authenticated
    """
    with tenancy.system_session("auth.account") as session:
        user = lock_user(session, principal.id)
        if user is None:
            raise InvalidToken
        if user.full_name != full_name:
            change = {"before": {"full_name": user.full_name}, "after": {"full_name": full_name}}
            user.full_name = full_name
            audit.record_user_event_in_all_organizations(session, user.id, "user.renamed", change)


def request_email_verification(principal: Principal) -> None:
    """Mail a verification link to the caller, in a transaction of its own; earlier links no longer work.

    raises: AlreadyVerified, InvalidToken when the user was disabled since the request was authenticated
    """
    with tenancy.system_session("auth.verification") as session:
        user = lock_user(session, principal.id)
        if user is None:
            raise InvalidToken
        if user.email_verified:
            raise AlreadyVerified
        send_verification_email(session, user)


def send_verification_email(session: SystemSession, user: User) -> None:
    """Mail a verification link to a user, without any text that they gave: the address may be a stranger's."""
    token = one_time_tokens.issue_token(session, user.id, VERIFY_EMAIL_PURPOSE)
    mails.enqueue(session, "verify_email", user.email, token=token)


def verify_email(token: str) -> User:
    """Verify the address of the user to whom a token was mailed, in a transaction of its own.

    raises: InvalidOneTimeToken
    """
    with tenancy.system_session("auth.verification") as session:
        user = lock_user(session, one_time_tokens.get_token_user(session, VERIFY_EMAIL_PURPOSE, token))
        if user is None:
            raise InvalidOneTimeToken
        one_time_tokens.consume_token(session, VERIFY_EMAIL_PURPOSE, token)
        mark_email_verified(session, user)
        return user


def mark_email_verified(session: SystemSession, user: User) -> None:
    """Mark the address of a user as verified, and revoke the remaining verification links."""
    if not user.email_verified:
        user.email_verified_at = clock.now()
        one_time_tokens.revoke_tokens(session, user.id, VERIFY_EMAIL_PURPOSE)
        data = audit.values(email=user.email)
        audit.record_user_event_in_all_organizations(session, user.id, "user.email_verified", data)


def request_email_change(principal: Principal, email: str) -> None:
    """Mail a link to a new address of the caller, and a notice to the present one; an earlier change is replaced.

    email: as `normalize_email` writes it
    raises: FreshLoginRequired, ValidationFailed, EmailTaken, InvalidToken
    """
    access.require_fresh_login(principal)
    with tenancy.system_session("auth.account") as session:
        user = lock_user(session, principal.id)
        if user is None:
            raise InvalidToken
        if email == user.email:
            raise ValidationFailed.at_field(User.email.key, "This is your email address already.")
        if find_by_email(session, email) is not None:
            raise EmailTaken
        token = email_changes.replace_pending(session, user.id, email)
        mails.enqueue(session, "change_email", email, token=token)
        audit.record_user_event_in_all_organizations(session, user.id, "user.email_change_requested", {"to": email})
        notices.enqueue(session, [Recipient.of(user)], _CHANGE_REQUESTED)


def cancel_email_change(principal: Principal) -> None:
    """End the caller's change of address; its link no longer works. A repeat is allowed."""
    with tenancy.system_session("auth.account") as session:
        if email_changes.revoke(session, principal.id):
            audit.record_user_event_in_all_organizations(session, principal.id, "user.email_change_canceled")


def confirm_email_change(token: str) -> User:
    """Give a user the address to which a token was mailed, in a transaction of its own. Sessions go on.

    raises: InvalidOneTimeToken; EmailTaken when another account has the address by now, which leaves the token unused
    """
    with tenancy.system_session("auth.verification") as session:
        user_id = email_changes.find_user_id(session, token)
        user = lock_user(session, user_id) if user_id else None
        if user is None:
            raise InvalidOneTimeToken
        before = Recipient.of(user)
        user.email, user.email_verified_at = email_changes.consume(session, token), clock.now()
        session.flush()  # EmailTaken, before anything else is written
        for purpose in (VERIFY_EMAIL_PURPOSE, RESET_PASSWORD_PURPOSE):
            one_time_tokens.revoke_tokens(session, user.id, purpose)  # they were mailed to the address of before
        change = {"before": audit.values(email=before.email), "after": audit.values(email=user.email)}
        audit.record_user_event_in_all_organizations(session, user.id, "user.email_changed", change)
        notice = Notice(
            "Your email address was changed",
            [f"Your account has the address {user.email} now."],
            "Contact support at once: this address no longer resets the password.",
            "/login",
        )
        notices.enqueue(session, [before], notice)
        return user
