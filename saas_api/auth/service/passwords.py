"""New passwords: for who forgot theirs, by a mailed link, and for who knows it."""

import contextlib

from sqlalchemy import func

from saas_api import mail
from saas_api.auth.rules import normal_password, password_problem
from saas_api.auth.service import links, log, sessions, tokens
from saas_api.auth.service.sessions import InvalidCredentials
from saas_api.core import crypto
from saas_api.core.access import Principal
from saas_api.core.errors import Invalid, InvalidOneTimeToken
from saas_api.core.ids import new_id
from saas_api.core.queue import enqueue
from saas_api.core.tenancy import as_system
from saas_api.users import service as users

PURPOSE = "reset_password"


class _Nobody(Exception):
    """No account has the address: what was written is taken back."""


def request_password_reset(email: str) -> None:
    """Mail a link to the account of that address; where there is none, do as much and keep nothing of it."""
    with as_system("auth.passwords") as session:
        found = users.find_by_email(session, email)
        user = users.hold(session, found.id if found else new_id())
        with contextlib.suppress(_Nobody), session.begin_nested():
            token = links.issue(session, user.id if user else new_id(), PURPOSE)
            to, name = (user.email, user.full_name) if user else (email, "")
            mail.send(session, PURPOSE, to, token=token, name=name)
            if user is None:
                raise _Nobody
        enqueue(session, "mail.drain")  # for nobody too: the worker looks and finds nothing


def reset_password(token: str, new_password: str) -> None:
    """Set the password of whoever holds a mailed link, and end every session they have.

    raises: InvalidOneTimeToken; Invalid on new_password, which leaves the token unspent
    """
    with as_system("auth.passwords") as session:
        found = users.find(session, links.holder(session, PURPOSE, token))
    if found is None or found.disabled_at is not None:
        raise InvalidOneTimeToken
    password_hash = acceptable_hash(new_password, "new_password", found.email, found.full_name)
    with as_system("auth.passwords") as session:
        user = users.hold(session, found.id)
        if user is None:
            raise InvalidOneTimeToken
        links.spend(session, PURPOSE, token)
        user.password_hash = password_hash
        user.tokens_valid_after = func.now()  # PostgreSQL's instant, as tokens are compared
        sessions.end_all(session, user.id, "password reset")
        log.note_everywhere(session, user.id, "user.password_reset")


def prove_again(principal: Principal, password: str) -> str:
    """An access token that is fresh, for who gives their password once more within a session.

    raises: InvalidCredentials
    """
    with as_system("auth.passwords") as session:
        found = users.find(session, principal.id)
    if not users.check_password(found, normal_password(password)) or principal.session_id is None:
        log.note_failure(found, str(principal.id), "user.sign_in_failed")
        raise InvalidCredentials("The password is wrong.")
    return tokens.issue_fresh(principal.id, principal.session_id.hex, principal.organization_id.hex)


def change_password(principal: Principal, current_password: str, new_password: str) -> None:
    """Replace a password its owner knows; their other sessions end, and links that would reset it are void.

    raises: InvalidCredentials, Invalid on new_password
    """
    with as_system("auth.passwords") as session:
        found = users.find(session, principal.id)
    if not users.check_password(found, normal_password(current_password)) or found is None:
        log.note_failure(found, str(principal.id), "user.password_change_failed")
        raise InvalidCredentials("The current password is wrong.")
    password_hash = acceptable_hash(new_password, "new_password", found.email, found.full_name)
    with as_system("auth.passwords") as session:
        user = users.confirm(session, found, password_hash)
        if user is None:
            raise InvalidCredentials("The current password is wrong.")
        links.void(session, user.id, PURPOSE)
        sessions.end_all(session, user.id, "password changed", but=principal.session_id)
        log.note_everywhere(session, user.id, "user.password_changed")


def acceptable_hash(password: str, field: str, *about: str) -> str:
    """The hash of a password that may be used; slow, so outside of transactions.

    field: where the request has it
    about: what an attacker would try first, such as the e-mail address
    raises: Invalid on that field
    """
    password = normal_password(password)
    if problem := password_problem(password, about):
        raise Invalid.at(field, problem)
    return crypto.hash_password(password)
