"""Passwords: policy, hashing of new ones, reset by mail, change, and reauthentication."""

import contextlib
import re
import threading
import unicodedata
from collections.abc import Sequence

from sqlalchemy import func

from saas_api.accounts import (
    audit,
    email_changes,
    failed_logins,
    members,
    notices,
    one_time_tokens,
    sessions,
    tokens,
    users,
)
from saas_api.accounts.models import User
from saas_api.accounts.notices import Notice, Recipient
from saas_api.accounts.one_time_tokens import RESET_PASSWORD_PURPOSE
from saas_api.accounts.sessions import InvalidCredentials
from saas_api.accounts.tokens import FreshAccessToken, SessionClaims, TokenAudience
from saas_api.core import crypto, ids
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import InvalidOneTimeToken, ServiceUnavailable, ValidationFailed
from saas_api.core.jobs import queue
from saas_api.mail import mails

MIN_PASSWORD_LENGTH = 8
MAX_PASSWORD_LENGTH = 128
_MIN_GUESSES = 10**8
_STRENGTH_LENGTH = 20
"""Length of the part whose strength is estimated: the time of an estimate grows with the cube of the length."""
_MAX_WAIT_SECONDS = 2
_strength_slot = threading.Semaphore(1)


_FORGOT_PASSWORD_PATH = "/forgot-password"  # noqa: S105 - a path
_PASSWORD_CHANGED = Notice(
    "Your password was changed",
    ["Your other sessions have ended."],
    "Choose a new password now. This also ends all sessions.",
    _FORGOT_PASSWORD_PATH,
)
_PASSWORD_RESET = Notice(
    "Your password was reset",
    ["It was reset with a link sent to this address. All your sessions have ended."],
    "Someone else can read your email. Secure your mailbox first, then choose a new password.",
    _FORGOT_PASSWORD_PATH,
)


class _UnknownUser(Exception):
    """No account has the address; rolls back what was written for it."""


def normalize_password(password: str) -> str:
    """The password in Unicode normalization form KC, so that every keyboard produces the same hash."""
    return unicodedata.normalize("NFKC", password)


def password_length_problem(password: str) -> str | None:
    """A sentence when a normalized password is too short or too long, else None."""
    return (
        None
        if MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH
        else f"Use {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters."
    )


def password_problem(password: str, user_inputs: Sequence[str]) -> str | None:
    """A sentence when a normalized password is too short, too long or easy to guess, else None.

    user_inputs: what an attacker would try first, such as the email address
    """
    if problem := password_length_problem(password):
        return problem
    if _estimate_guesses(password[:_STRENGTH_LENGTH], _words(user_inputs)) < _MIN_GUESSES:
        return "This password is too common. Use a longer one, or words that do not belong together."
    return None


def _words(user_inputs: Sequence[str]) -> list[str]:
    """The inputs and the words in them: "acme" of "Acme Ltd." and of "alice@acme.example"."""
    words = [word for value in user_inputs for word in re.split(r"\W+|_", value) if len(word) > 2]
    return [value.lower() for value in (*user_inputs, *words)]


def _estimate_guesses(password: str, words: Sequence[str]) -> float:
    """The guesses that an attacker with lists of common passwords needs. Runs one at a time, for its Python is slow.

    raises: ServiceUnavailable when others are estimated for 2 seconds
    """
    from zxcvbn import zxcvbn  # noqa: PLC0415 - 14 MiB of word lists, needed at sign-up only

    if not _strength_slot.acquire(timeout=_MAX_WAIT_SECONDS):
        raise ServiceUnavailable
    try:
        return float(zxcvbn(password, user_inputs=list(words))["guesses"])
    finally:
        _strength_slot.release()


def hash_new_password(password: str, field: str, *user_inputs: str) -> str:
    """Check and hash a new password. Slow, so call it outside of transactions.

    field: of the request, named in the error
    user_inputs: what an attacker would try first, such as the email address
    raises: ValidationFailed
    """
    password = normalize_password(password)
    if problem := password_problem(password, user_inputs):
        raise ValidationFailed.at_field(field, problem)
    return crypto.hash_password(password)


def _guessable_words(session: SystemSession, user: User | None) -> list[str]:
    """What an attacker would try first for a user: address, name and the names of their organizations."""
    if user is None:
        return []
    names = [organization.name for organization, _ in members.list_memberships(session, user.id)]
    return [user.email, user.full_name, *names]


def request_password_reset(email: str) -> None:
    """Mail a reset link, in a transaction of its own. For an unknown address the same work is done and rolled back."""
    with tenancy.system_session("auth.passwords") as session:
        match = users.find_by_email(session, email)
        user = users.lock_user(session, match.id if match else ids.new_id())
        with contextlib.suppress(_UnknownUser), session.begin_nested():
            token = one_time_tokens.issue_token(session, user.id if user else ids.new_id(), RESET_PASSWORD_PURPOSE)
            recipient, name = (user.email, user.greeting_name) if user else (email, "")
            mails.enqueue(session, "reset_password", recipient, token=token, name=name)
            if user is None:
                raise _UnknownUser
        queue.enqueue(session, "mail.drain")  # for an unknown address too, so that both take the same time


def reset_password(token: str, new_password: str) -> None:
    """Set the password of the user to whom a token was mailed, and end all sessions of the user.

    raises: InvalidOneTimeToken; ValidationFailed on new_password, which leaves the token unused
    """
    with tenancy.system_session("auth.passwords") as session:
        token_user = users.find_user(session, one_time_tokens.get_token_user(session, RESET_PASSWORD_PURPOSE, token))
        words = _guessable_words(session, token_user)
    if token_user is None or token_user.disabled_at is not None:
        raise InvalidOneTimeToken
    password_hash = hash_new_password(new_password, "new_password", *words)
    with tenancy.system_session("auth.passwords") as session:
        user = users.lock_user(session, token_user.id)
        if user is None:
            raise InvalidOneTimeToken
        one_time_tokens.consume_token(session, RESET_PASSWORD_PURPOSE, token)
        user.password_hash = password_hash
        user.tokens_valid_after = func.now()  # PostgreSQL's clock, with which tokens are compared
        sessions.end_sessions(session, user.id, "password reset")
        email_changes.revoke(session, user.id)  # whoever knew the password may have requested it
        audit.record_user_event_in_all_organizations(session, user.id, "user.password_reset")
        notices.enqueue(session, [Recipient.of(user)], _PASSWORD_RESET)


def reauthenticate(principal: Principal, password: str, audience: TokenAudience) -> FreshAccessToken:
    """Verify the password again within a session, in transactions of its own.

    audience: of the request
    returns: an access token that is recently authenticated
    raises: InvalidCredentials
    """
    with tenancy.system_session("auth.passwords") as session:
        user = users.find_user(session, principal.id)
    if not users.verify_password(user, normalize_password(password)) or principal.session_id is None:
        failed_logins.record_failure(user, str(principal.id), "user.sign_in_failed")
        raise InvalidCredentials("The password is wrong.")
    claims = SessionClaims(principal.id, principal.session_id, principal.organization_id, audience)
    return tokens.issue_fresh_access_token(claims)


def change_password(principal: Principal, current_password: str, new_password: str) -> None:
    """Change the caller's password, end the other sessions, revoke reset links, and end a change of address.

    raises: InvalidCredentials, ValidationFailed on new_password
    """
    with tenancy.system_session("auth.passwords") as session:
        verified_user = users.find_user(session, principal.id)
        words = _guessable_words(session, verified_user)
    if not users.verify_password(verified_user, normalize_password(current_password)) or verified_user is None:
        failed_logins.record_failure(verified_user, str(principal.id), "user.password_change_failed")
        raise InvalidCredentials("The current password is wrong.")
    password_hash = hash_new_password(new_password, "new_password", *words)
    with tenancy.system_session("auth.passwords") as session:
        user = users.lock_verified(session, verified_user, password_hash)
        if user is None:
            raise InvalidCredentials("The current password is wrong.")
        one_time_tokens.revoke_tokens(session, user.id, RESET_PASSWORD_PURPOSE)
        email_changes.revoke(session, user.id)
        sessions.end_sessions(session, user.id, "password changed", except_for=principal.session_id)
        audit.record_user_event_in_all_organizations(session, user.id, "user.password_changed")
        notices.enqueue(session, [Recipient.of(user)], _PASSWORD_CHANGED)
