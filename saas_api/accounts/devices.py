"""Devices from which a user has signed in: the wrong passwords of strangers do not keep them out.

A device has one signed mark for each of its accounts, in a cookie that says nothing about them.
"""

import hmac
import secrets

import sqlalchemy as sa

from saas_api.accounts.models import User, UserSession
from saas_api.core import crypto
from saas_api.core.db import tenancy

MAX_ACCOUNTS = 5
_SEPARATOR = "~"


def add_account(marks: str, email: str) -> str:
    """The marks of a device from which a user has just signed in.

    email: here and below as `normalize_email` writes it
    marks: of the device before; empty for a new device
    """
    if _find_mark(marks, email):
        return marks
    nonce = secrets.token_urlsafe(12)
    return _SEPARATOR.join([f"{nonce}.{_sign(nonce, email)}", *marks.split(_SEPARATOR)[: MAX_ACCOUNTS - 1]])


def find_known_device(marks: str, email: str, address: str) -> str | None:
    """What identifies a device, if the account was signed in to from it or from its address before.

    marks: of the device; empty without a cookie
    address: of the client, or "invalid"
    """
    return _find_mark(marks, email) or _find_address(email, address)


def _find_mark(marks: str, email: str) -> str | None:
    for mark in marks.split(_SEPARATOR)[:MAX_ACCOUNTS]:
        nonce, _, signature = mark.partition(".")
        if hmac.compare_digest(signature.encode(), _sign(nonce, email).encode()):
            return nonce
    return None


def _sign(nonce: str, email: str) -> str:
    return crypto.hmac_hex("device", nonce, email)[:32]


def _find_address(email: str, address: str) -> str | None:
    statement = sa.select(UserSession.id).join(User, User.id == UserSession.user_id)
    statement = statement.where(User.email == email, UserSession.ip == address).limit(1)
    with tenancy.system_session("auth.devices") as session:
        is_known = address != "invalid" and session.execute(statement).first() is not None
    return address if is_known else None
