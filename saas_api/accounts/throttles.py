"""Rate limits of sign-up, sign-in, mailed links, passwords and invitations, shared by API and pages."""

from collections.abc import Callable
from typing import Any

from flask import Response, g, request

from saas_api.accounts.sessions import SessionOrigin
from saas_api.core import crypto, request_context
from saas_api.core.limits import limiter
from saas_api.core.settings import setting

Decorator = Callable[[Any], Any]

# of one address, times AUTH_ALLOWANCE_FACTOR
REGISTRATIONS_PER_HOUR = 10
REFRESHES_PER_5_MINUTES = 20
LINKS_PER_5_MINUTES = 20
DECLINED_INVITATIONS_PER_5_MINUTES = 20
SIGN_INS_PER_5_MINUTES = 10
LINK_REQUESTS_PER_HOUR = 20
# of all addresses together
ALL_SIGN_INS_PER_5_MINUTES = 1000
# of one account, invitation, user or organization
FAILED_SIGN_INS_PER_15_MINUTES = 10
FAILED_SIGN_INS_OF_ADDRESS_PER_5_MINUTES = 5
FAILED_JOINS_PER_15_MINUTES = 10
PASSWORD_CHECKS_PER_15_MINUTES = 10
PASSWORD_RESETS_PER_HOUR = 3
VERIFICATION_EMAILS_PER_HOUR = 3
INVITATIONS_PER_DAY = 50


def request_origin() -> SessionOrigin:
    """Address and browser of the current request."""
    address = request_context.client_ip()
    return SessionOrigin(None if address == "invalid" else address, request.headers.get("User-Agent"))


def _submitted_value(name: str) -> str:
    body = g.get("arguments", {}).get("body") or {}
    return str(body.get(name) or request.values.get(name, "")).strip()


def _account_key() -> str:
    return crypto.hmac_hex("throttle", _submitted_value("email").lower())


def _account_and_address_key() -> str:
    return f"{_account_key()}:{request_context.client_ip()}"


def _invitation_key() -> str:
    return crypto.hmac_hex("throttle", _submitted_value("token"))


def _user_key() -> str:
    return str(g.principal.id)


def _organization_key() -> str:
    return str(g.principal.organization_id)


def _global_key() -> str:
    return "everybody"


def _is_unauthorized(response: Response) -> bool:
    return response.status_code == 401


def _limit_address(amount: int, period: str, scope: str) -> Decorator:
    return limiter.limiter.shared_limit(
        lambda: f"{amount * setting('AUTH_ALLOWANCE_FACTOR')} per {period}",
        scope=scope,
        key_func=request_context.client_ip,
    )


def _limit(
    limit: str, scope: str, key: Callable[[], str], deduct_when: Callable[[Response], bool] | None = None
) -> Decorator:
    return limiter.limiter.shared_limit(limit, scope=scope, key_func=key, deduct_when=deduct_when)


limit_registrations = _limit_address(REGISTRATIONS_PER_HOUR, "hour", "register")
limit_refreshes = _limit_address(REFRESHES_PER_5_MINUTES, "5 minutes", "refresh")
limit_links = _limit_address(LINKS_PER_5_MINUTES, "5 minutes", "links")
limit_declined_invitations = _limit_address(DECLINED_INVITATIONS_PER_5_MINUTES, "5 minutes", "decline")
# Each call counts: the strength of a new password is estimated before the old one decides.
limit_password_changes = _limit(f"{PASSWORD_CHECKS_PER_15_MINUTES} per 15 minutes", "password", _user_key)


def limit_sign_in(view: Any) -> Any:
    """Limit sign-ins: all, failed ones of an account, failed ones of an account and address, all of an address."""
    view = _limit_address(SIGN_INS_PER_5_MINUTES, "5 minutes", "sign-in-from")(view)
    view = _limit(
        f"{FAILED_SIGN_INS_OF_ADDRESS_PER_5_MINUTES} per 5 minutes",
        "sign-in-at",
        _account_and_address_key,
        _is_unauthorized,
    )(view)
    view = _limit(f"{FAILED_SIGN_INS_PER_15_MINUTES} per 15 minutes", "sign-in", _account_key, _is_unauthorized)(view)
    # checked last, so that an attempt that another limit rejects does not use it up
    return _limit(f"{ALL_SIGN_INS_PER_5_MINUTES} per 5 minutes", "sign-in", _global_key)(view)


def limit_password_resets(view: Any) -> Any:
    """Limit the requests for a reset link, of an account and of an address."""
    view = _limit_address(LINK_REQUESTS_PER_HOUR, "hour", "reset")(view)
    return _limit(f"{PASSWORD_RESETS_PER_HOUR} per hour", "reset", _account_key)(view)


def limit_verification_emails(view: Any) -> Any:
    """Limit the requests for a verification link, of a user and of an address."""
    view = _limit_address(LINK_REQUESTS_PER_HOUR, "hour", "verification")(view)
    return _limit(f"{VERIFICATION_EMAILS_PER_HOUR} per hour", "verification", _user_key)(view)


def limit_failed_joins(view: Any) -> Any:
    """Limit the wrong passwords for an invitation, and the requests of an address with a one-time token."""
    view = limit_links(view)
    return _limit(f"{FAILED_JOINS_PER_15_MINUTES} per 15 minutes", "join", _invitation_key, _is_unauthorized)(view)


def limit_invitations(*, sent_status: int) -> Decorator:
    """Limit the invitations of an organization.

    sent_status: status of a response after which an invitation counts
    """

    def is_sent(response: Response) -> bool:
        return response.status_code == sent_status

    return _limit(f"{INVITATIONS_PER_DAY} per day", "invitations", _organization_key, is_sent)
