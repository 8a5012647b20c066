"""Two-factor sign-in: codes of an authenticator app (RFC 6238), and recovery codes in their place.

A user begins the setup, scans a secret, and turns it on with a code. From then on each sign-in needs a code after the
password. A code is accepted once, also by two requests at the same time.
"""

import contextlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import pyotp
from limits import parse as parse_limit

from saas_api.accounts import audit, authenticators, devices, failed_logins, notices, users
from saas_api.accounts.models import User
from saas_api.accounts.notices import Notice, Recipient
from saas_api.accounts.sessions import SessionOrigin
from saas_api.accounts.tokens import InvalidToken
from saas_api.core import access, brand, clock, crypto
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, Forbidden, NotFound, TooManyRequests, Unauthenticated
from saas_api.core.limits import limiter

CHALLENGE_LIFETIME = timedelta(minutes=10)
CODES_OF_DEVICE_PER_15_MINUTES, CODES_OF_STRANGERS_PER_HOUR = 10, 10
FAILURES_BEFORE_NOTICE = 5
_DEVICE_LIMIT = parse_limit(f"{CODES_OF_DEVICE_PER_15_MINUTES} per 15 minutes")
_STRANGER_LIMIT = parse_limit(f"{CODES_OF_STRANGERS_PER_HOUR} per hour")
_PASSWORD_PATH, _GUIDE_PATH = "/forgot-password", "/docs/account-security"
_TURNED_ON = Notice(
    "Two-factor sign-in was turned on",
    ["Signing in now takes a code from an authenticator app."],
    "Choose a new password, then ask support to turn two-factor sign-in off.",
    _PASSWORD_PATH,
    _GUIDE_PATH,
)
_TURNED_OFF = Notice(
    "Two-factor sign-in was turned off",
    ["Signing in takes only the password again."],
    "Choose a new password now, then turn two-factor sign-in on again.",
    _PASSWORD_PATH,
    _GUIDE_PATH,
)
_TURNED_OFF_BY_OPERATOR = Notice(
    "Two-factor sign-in was turned off",
    ["Support turned it off. Your sessions have ended."],
    "Choose a new password now, and contact support.",
    _PASSWORD_PATH,
    _GUIDE_PATH,
)
_CODES_REPLACED = Notice(
    "Your recovery codes were replaced",
    ["The earlier recovery codes no longer work."],
    "Choose a new password now, then create new recovery codes.",
    _PASSWORD_PATH,
    _GUIDE_PATH,
)
_CODES_GUESSED = Notice(
    "Wrong two-factor codes were entered for your account",
    ["The password was right, and the codes were wrong. Nobody got in."],
    "Someone knows your password. Choose a new one now.",
    _PASSWORD_PATH,
    _GUIDE_PATH,
)


class TwoFactorRequired(Forbidden):
    """The password is right, and the sign-in lacks the code.

    challenge: proves the password in the next step, for CHALLENGE_LIFETIME
    """

    code, message = "TWO_FACTOR_REQUIRED", "Send the code from your authenticator app, or a recovery code."

    def __init__(self, challenge: str) -> None:
        super().__init__()
        self.challenge = challenge


class InvalidTwoFactorCode(Unauthenticated):
    """The code is wrong, expired or was used before."""

    code, message = "INVALID_TWO_FACTOR_CODE", "This code is not valid. Each code works once."


class SignInExpired(Unauthenticated):
    """The password was given too long ago, or has changed since."""

    code, message = "SIGN_IN_EXPIRED", "Enter your password again."


class TwoFactorEnabled(Conflict):
    """Two-factor sign-in is on already."""

    message = "Two-factor sign-in is on already."


class TwoFactorNotEnabled(Conflict):
    """Two-factor sign-in is off."""

    message = "Two-factor sign-in is off."


@dataclass(frozen=True)
class TwoFactorStatus:
    """Whether two-factor sign-in is on, and since when.

    recovery_codes: number of those that were not used
    """

    enabled_at: datetime | None
    recovery_codes: int


@dataclass(frozen=True)
class TwoFactorSetup:
    """A secret for an authenticator app: in Base32, and as the URI of a QR code."""

    secret: str
    uri: str


def get_status(principal: Principal) -> TwoFactorStatus:
    """Whether the caller uses two-factor sign-in."""
    with tenancy.system_session("auth.two_factor") as session:
        return TwoFactorStatus(
            authenticators.find_enabled_at(session, principal.id),
            authenticators.count_recovery_codes(session, principal.id),
        )


def start_setup(principal: Principal) -> None:
    """Make a new secret for the caller, which sign-in does not ask for before `enable`.

    raises: FreshLoginRequired, TwoFactorEnabled, InvalidToken
    """
    access.require_fresh_login(principal)
    with tenancy.system_session("auth.two_factor") as session:
        user = _lock_user(session, principal)
        if authenticators.find_enabled_at(session, user.id) is not None:
            raise TwoFactorEnabled
        authenticators.create_secret(session, user.id)


def get_setup(principal: Principal) -> TwoFactorSetup:
    """The caller's secret between `start_setup` and `enable`; afterwards it is never shown.

    raises: NotFound
    """
    with tenancy.system_session("auth.two_factor") as session:
        record = authenticators.find_secret(session, principal.id)
        if record is None or record.confirmed_at is not None:
            raise NotFound
        secret = authenticators.read_secret(record)
        name = session.get_one(User, principal.id).email
    return TwoFactorSetup(
        secret, pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=brand.current_brand().name)
    )


def enable(principal: Principal, code: str, origin: SessionOrigin) -> list[str]:
    """Turn two-factor sign-in on with a code of the secret that `start_setup` made.

    returns: the recovery codes, of which only digests are stored
    raises: FreshLoginRequired, TwoFactorNotEnabled without a setup, TwoFactorEnabled, InvalidTwoFactorCode,
        TooManyRequests, InvalidToken
    """
    access.require_fresh_login(principal)
    _count_attempt(users.get_user(principal), origin)
    with tenancy.system_session("auth.two_factor") as session:
        user = _lock_user(session, principal)
        record = authenticators.find_secret(session, user.id)
        if record is None:
            raise TwoFactorNotEnabled
        if record.confirmed_at is not None:
            raise TwoFactorEnabled
        if not authenticators.use_app_code(session, record, authenticators.normalize_code(code)):
            raise InvalidTwoFactorCode
        record.confirmed_at = clock.now()
        audit.record_user_event_in_all_organizations(session, user.id, "user.two_factor_enabled")
        notices.enqueue(session, [Recipient.of(user)], _TURNED_ON)
        return authenticators.replace_recovery_codes(session, user.id)


def disable(principal: Principal, code: str, origin: SessionOrigin) -> None:
    """Turn two-factor sign-in off for the caller.

    raises: as `replace_recovery_codes`
    """
    with _verified_change(principal, code, origin) as (session, user):
        authenticators.remove(session, user.id)
        audit.record_user_event_in_all_organizations(session, user.id, "user.two_factor_disabled")
        notices.enqueue(session, [Recipient.of(user)], _TURNED_OFF)


def replace_recovery_codes(principal: Principal, code: str, origin: SessionOrigin) -> list[str]:
    """Give the caller new recovery codes; the earlier ones no longer work.

    raises: FreshLoginRequired, TwoFactorNotEnabled, InvalidTwoFactorCode, TooManyRequests, InvalidToken
    """
    with _verified_change(principal, code, origin) as (session, user):
        audit.record_user_event_in_all_organizations(session, user.id, "user.recovery_codes_replaced")
        notices.enqueue(session, [Recipient.of(user)], _CODES_REPLACED)
        return authenticators.replace_recovery_codes(session, user.id)


@contextlib.contextmanager
def _verified_change(principal: Principal, code: str, origin: SessionOrigin) -> Iterator[tuple[SystemSession, User]]:
    """A transaction in which the caller changes two-factor sign-in, after a recent password and a code."""
    access.require_fresh_login(principal)
    if not verify(users.get_user(principal), code, origin):
        raise TwoFactorNotEnabled
    with tenancy.system_session("auth.two_factor") as session:
        yield session, _lock_user(session, principal)


def notify_removal(session: SystemSession, user: User) -> None:
    """Mail a user that an operator turned two-factor sign-in off."""
    notices.enqueue(session, [Recipient.of(user)], _TURNED_OFF_BY_OPERATOR)


def verify_challenge(challenge: str) -> User:
    """The user of a TwoFactorRequired, as they were when the password was verified.

    raises: SignInExpired, also when the password has changed since, or the user is disabled
    """
    user_id, _, rest = challenge.partition("-")
    try:
        expires_at = int(rest.partition("-")[0])
        with tenancy.system_session("auth.two_factor") as session:
            user = users.find_user(session, UUID(user_id))
    except ValueError:
        raise SignInExpired from None
    if user is None or user.disabled_at is not None or expires_at < clock.now().timestamp():
        raise SignInExpired
    if not hmac.compare_digest(challenge.encode(), _sign_challenge(user, expires_at).encode()):
        raise SignInExpired
    return user


def _sign_challenge(user: User, expires_at: int) -> str:
    """User and expiry, which are readable, and the signature of both and the password hash."""
    parts = (user.id.hex, str(expires_at))
    return "-".join([*parts, crypto.hmac_hex("two_factor", *parts, user.password_hash)])


def verify(user: User, code: str | None, origin: SessionOrigin) -> bool:
    """Accept a code of the authenticator app or a recovery code, once, in a transaction of its own.

    user: whose password was verified, as they were then
    code: None when none was given
    returns: False for a user who signs in without a code
    raises: TwoFactorRequired without a code that is needed; InvalidTwoFactorCode, after the failure was recorded in the
        audit log; TooManyRequests
    """
    with tenancy.system_session("auth.two_factor") as session:
        if authenticators.find_enabled_at(session, user.id) is None:
            return False
    if code is None:
        raise TwoFactorRequired(_sign_challenge(user, int((clock.now() + CHALLENGE_LIFETIME).timestamp())))
    _count_attempt(user, origin)
    with tenancy.system_session("auth.two_factor") as session:
        is_accepted = _use_code(session, user, authenticators.normalize_code(code))
    if not is_accepted:
        if failed_logins.record_failure(user, user.email, "user.two_factor_failed") == FAILURES_BEFORE_NOTICE:
            with tenancy.system_session("auth.two_factor") as session:
                notices.enqueue(session, [Recipient.of(user)], _CODES_GUESSED)
        raise InvalidTwoFactorCode
    return True


def _use_code(session: SystemSession, user: User, code: str) -> bool:
    record = authenticators.find_secret(session, user.id)
    if record is not None and authenticators.use_app_code(session, record, code):
        return True
    if not authenticators.use_recovery_code(session, user.id, code):
        return False
    left = authenticators.count_recovery_codes(session, user.id)
    audit.record_user_event_in_all_organizations(session, user.id, "user.recovery_code_used", {"left": left})
    notice = Notice(
        "A recovery code was used for your account",
        [f"Unused recovery codes: {left}"],
        "Choose a new password now, then create new recovery codes.",
        _PASSWORD_PATH,
        _GUIDE_PATH,
    )
    notices.enqueue(session, [Recipient.of(user)], notice)
    return True


def _count_attempt(user: User, origin: SessionOrigin) -> None:
    """Count a code before it is compared, so that concurrent attempts are counted too.

    A device from which the account was signed in to before is counted alone: strangers cannot keep it out.
    raises: TooManyRequests
    """
    device = devices.find_known_device(origin.device_marks, user.email, origin.ip or "invalid")
    limit = _DEVICE_LIMIT if device else _STRANGER_LIMIT
    if not limiter.limiter.limiter.hit(limit, crypto.hmac_hex("throttle", str(user.id), device or ""), "two-factor"):
        raise TooManyRequests(retry_after=limit.get_expiry())


def _lock_user(session: SystemSession, principal: Principal) -> User:
    user = users.lock_user(session, principal.id)
    if user is None:
        raise InvalidToken
    return user
