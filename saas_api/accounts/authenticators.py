"""Secrets of authenticator apps (RFC 6238) and recovery codes, and the use of each code once.

Functions without a transaction of their own leave it to `two_factor`, which decides who may sign in.
"""

import hmac
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import pyotp
import sqlalchemy as sa

from saas_api.accounts.models import RecoveryCode, TwoFactorSecret
from saas_api.core import clock, crypto
from saas_api.core.crypto import DecryptionFailed
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.observability import get_logger

log = get_logger(__name__)

ENCRYPTION_PURPOSE = "two_factor"
STEP_SECONDS, ACCEPTED_DRIFT_STEPS = 30, 1
RECOVERY_CODES = 10
_GROUPS, _GROUP_LENGTH = 4, 4
_RECOVERY_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
"""Without letters and digits that look alike."""


def find_enabled_at(session: SystemSession, user_id: UUID) -> datetime | None:
    """When a user turned two-factor sign-in on; None while it is off."""
    return session.scalar(sa.select(TwoFactorSecret.confirmed_at).where(TwoFactorSecret.user_id == user_id))


def find_secret(session: SystemSession, user_id: UUID) -> TwoFactorSecret | None:
    """The secret of a user, also one whose setup has not ended."""
    return session.get(TwoFactorSecret, user_id, populate_existing=True)


def create_secret(session: SystemSession, user_id: UUID) -> None:
    """Give a user a new secret, in place of one whose setup has not ended."""
    record = find_secret(session, user_id)
    if record is None:
        record = TwoFactorSecret(user_id=user_id)
        session.add(record)
    record.secret_encrypted = _encrypt(user_id, pyotp.random_base32())


def _encrypt(user_id: UUID, secret: str) -> bytes:
    return crypto.encrypt(ENCRYPTION_PURPOSE, secret.encode(), row_id=user_id.hex)


def read_secret(record: TwoFactorSecret) -> str:
    """A secret in Base32."""
    return crypto.decrypt(ENCRYPTION_PURPOSE, record.secret_encrypted, row_id=record.user_id.hex).decode()


def normalize_code(code: str) -> str:
    """A code as people type it, without spaces and dashes, in lower case."""
    return "".join(character for character in code.lower() if character.isalnum())


def use_app_code(session: SystemSession, record: TwoFactorSecret, code: str) -> bool:
    """Accept a code of this time step or of one beside it, unless it or a newer one was accepted before."""
    try:
        app, now = pyotp.TOTP(read_secret(record)), clock.now()
    except DecryptionFailed:  # recovery codes still let the user in; flask doctor tells operators
        log.exception("two_factor_secret_lost", user_id=str(record.user_id))
        return False
    steps = [
        int(now.timestamp()) // STEP_SECONDS + drift
        for drift in range(-ACCEPTED_DRIFT_STEPS, ACCEPTED_DRIFT_STEPS + 1)
        if hmac.compare_digest(app.at(now, counter_offset=drift).encode(), code.encode())
    ]
    if not steps:
        return False
    step = max(steps)
    # one statement decides, so of two requests with the same code one is refused
    newer = sa.update(TwoFactorSecret).where(
        TwoFactorSecret.user_id == record.user_id, TwoFactorSecret.last_step < step
    )
    return session.scalar(newer.values(last_step=step).returning(TwoFactorSecret.user_id)) is not None


def use_recovery_code(session: SystemSession, user_id: UUID, code: str) -> bool:
    """Accept a recovery code that was not used before."""
    is_code = (*_unused_codes(user_id), RecoveryCode.digest == crypto.sha256(code))
    statement = sa.update(RecoveryCode).where(*is_code).values(used_at=clock.now())
    return session.scalar(statement.returning(RecoveryCode.user_id)) is not None


def count_recovery_codes(session: SystemSession, user_id: UUID) -> int:
    """Number of recovery codes of a user that were not used."""
    return session.scalar(sa.select(sa.func.count()).where(*_unused_codes(user_id))) or 0


def _unused_codes(user_id: UUID) -> tuple[sa.ColumnElement[bool], ...]:
    return RecoveryCode.user_id == user_id, RecoveryCode.used_at.is_(None)


def replace_recovery_codes(session: SystemSession, user_id: UUID) -> list[str]:
    """Give a user new recovery codes, such as "abcd-efgh-jkmn-pqrs"; only their digests are stored."""
    session.execute(sa.delete(RecoveryCode).where(RecoveryCode.user_id == user_id))
    codes = ["-".join(_random_group() for _ in range(_GROUPS)) for _ in range(RECOVERY_CODES)]
    digests = [crypto.sha256(normalize_code(code)) for code in codes]
    session.execute(sa.insert(RecoveryCode), [{"user_id": user_id, "digest": digest} for digest in digests])
    return codes


def _random_group() -> str:
    return "".join(secrets.choice(_RECOVERY_ALPHABET) for _ in range(_GROUP_LENGTH))


def remove(session: SystemSession, user_id: UUID) -> bool:
    """Turn two-factor sign-in off for a user without a code, or end a setup. Audit and notice are the caller's.

    returns: whether it was on
    """
    session.execute(sa.delete(RecoveryCode).where(RecoveryCode.user_id == user_id))
    statement = sa.delete(TwoFactorSecret).where(TwoFactorSecret.user_id == user_id)
    return session.scalar(statement.returning(TwoFactorSecret.confirmed_at)) is not None


def reencrypt_secrets(over: Callable[[Sequence[Any]], Iterable[Any]] = iter) -> int:
    """Encrypt every secret under the first SECRET_KEY, in a transaction of its own. Older keys may go afterwards.

    over: iterates over the secrets and may report progress
    returns: number of secrets
    raises: crypto.DecryptionFailed
    """
    with tenancy.system_session("auth.authenticators") as session:
        records = session.scalars(sa.select(TwoFactorSecret).with_for_update()).all()
        for record in over(records):
            record.secret_encrypted = _encrypt(record.user_id, read_secret(record))
    return len(records)


def count_by_secret_key() -> Counter[int]:
    """Number of stored secrets, as of `crypto.count_by_secret`."""
    with tenancy.system_session("auth.authenticators") as session:
        records = session.scalars(sa.select(TwoFactorSecret).execution_options(yield_per=1000))
        pairs = ((record.user_id.hex, record.secret_encrypted) for record in records)
        return crypto.count_by_secret(ENCRYPTION_PURPOSE, pairs)
