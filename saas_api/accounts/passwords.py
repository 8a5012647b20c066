"""Password policy, change, reset, reauthenticate."""

import contextlib
import unicodedata
from collections.abc import Sequence

from sqlalchemy import func

from saas_api.accounts import audit, one_time_tokens, sessions, tokens, users
from saas_api.accounts.sessions import InvalidCredentials
from saas_api.core import crypto, ids
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.core.errors import InvalidOneTimeToken, ValidationFailed
from saas_api.core.jobs import queue
from saas_api.mail import mails

MIN_PASSWORD_LENGTH = 8
MAX_PASSWORD_LENGTH = 128
_ZXCVBN_MAX_LENGTH = 72


def normalize_password(password: str) -> str:
    """The form in which a password is hashed: the same for every keyboard that can type it."""
    return unicodedata.normalize("NFKC", password)


def password_length_problem(password: str) -> str | None:
    """Why a password in its normal form is too short or too long; None when it is neither."""
    return (
        None
        if MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH
        else f"Use {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters."
    )


def password_problem(password: str, about: Sequence[str]) -> str | None:
    """Why a password is refused, in a sentence; None when it is not.

    password: in its normal form
    about: what an attacker would try first, such as the e-mail address
    """
    if problem := password_length_problem(password):
        return problem
    from zxcvbn import zxcvbn  # noqa: PLC0415 - 14 MiB of word lists, needed at sign-up only

    if zxcvbn(password[:_ZXCVBN_MAX_LENGTH], user_inputs=list(about))["score"] == 0:
        return "This password is among the first anybody would try."
    return None


RESET_PASSWORD_PURPOSE = "reset_password"


class _UnknownUser(Exception):
    """No account has the address: what was written is taken back."""


def request_password_reset(email: str) -> None:
    """Mail a link to the account of that address; where there is none, do as much and keep nothing of it."""
    with tenancy.system_session("auth.passwords") as session:
        found = users.find_by_email(session, email)
        user = users.lock(session, found.id if found else ids.new_id())
        with contextlib.suppress(_UnknownUser), session.begin_nested():
            token = one_time_tokens.issue_token(session, user.id if user else ids.new_id(), RESET_PASSWORD_PURPOSE)
            to, name = (user.email, user.full_name) if user else (email, "")
            mails.enqueue(session, RESET_PASSWORD_PURPOSE, to, token=token, name=name)
            if user is None:
                raise _UnknownUser
        queue.enqueue(session, "mail.drain")  # for nobody too: the worker looks and finds nothing


def reset_password(token: str, new_password: str) -> None:
    """Set the password of whoever holds a mailed link, and end every session they have.

    raises: InvalidOneTimeToken; Invalid on new_password, which leaves the token unspent
    """
    with tenancy.system_session("auth.passwords") as session:
        found = users.find_user(session, one_time_tokens.find_token_user(session, RESET_PASSWORD_PURPOSE, token))
    if found is None or found.disabled_at is not None:
        raise InvalidOneTimeToken
    password_hash = hash_new_password(new_password, "new_password", found.email, found.full_name)
    with tenancy.system_session("auth.passwords") as session:
        user = users.lock(session, found.id)
        if user is None:
            raise InvalidOneTimeToken
        one_time_tokens.consume_token(session, RESET_PASSWORD_PURPOSE, token)
        user.password_hash = password_hash
        user.tokens_valid_after = func.now()  # PostgreSQL's instant, as tokens are compared
        sessions.end_all_sessions(session, user.id, "password reset")
        audit.record_user_event_in_all_organizations(session, user.id, "user.password_reset")


def reauthenticate(principal: Principal, password: str) -> str:
    """An access token that is fresh, for who gives their password once more within a session.

    raises: InvalidCredentials
    """
    with tenancy.system_session("auth.passwords") as session:
        found = users.find_user(session, principal.id)
    if not users.verify_password(found, normalize_password(password)) or principal.session_id is None:
        audit.record_failed_login(found, str(principal.id), "user.sign_in_failed")
        raise InvalidCredentials("The password is wrong.")
    return tokens.issue_fresh_access_token(principal.id, principal.session_id.hex, principal.organization_id.hex)


def change_password(principal: Principal, current_password: str, new_password: str) -> None:
    """Replace a password its owner knows; their other sessions end, and links that would reset it are void.

    raises: InvalidCredentials, Invalid on new_password
    """
    with tenancy.system_session("auth.passwords") as session:
        found = users.find_user(session, principal.id)
    if not users.verify_password(found, normalize_password(current_password)) or found is None:
        audit.record_failed_login(found, str(principal.id), "user.password_change_failed")
        raise InvalidCredentials("The current password is wrong.")
    password_hash = hash_new_password(new_password, "new_password", found.email, found.full_name)
    with tenancy.system_session("auth.passwords") as session:
        user = users.lock_verified(session, found, password_hash)
        if user is None:
            raise InvalidCredentials("The current password is wrong.")
        one_time_tokens.revoke_tokens(session, user.id, RESET_PASSWORD_PURPOSE)
        sessions.end_all_sessions(session, user.id, "password changed", but=principal.session_id)
        audit.record_user_event_in_all_organizations(session, user.id, "user.password_changed")


def hash_new_password(password: str, field: str, *about: str) -> str:
    """The hash of a password that may be used; slow, so outside of transactions.

    field: where the request has it
    about: what an attacker would try first, such as the e-mail address
    raises: Invalid on that field
    """
    password = normalize_password(password)
    if problem := password_problem(password, about):
        raise ValidationFailed.at_field(field, problem)
    return crypto.hash_password(password)
