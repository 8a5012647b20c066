"""Rate limits of sign-up, sign-in, mailed links, passwords and invitations, shared by API and pages."""

from collections.abc import Callable
from typing import Any

from flask import Response, g, request

from saas_api.accounts import devices
from saas_api.accounts.sessions import SessionOrigin
from saas_api.accounts.tokens import TokenAudience
from saas_api.core import crypto, fields, request_context
from saas_api.core.limits import limiter
from saas_api.core.settings import setting

Decorator = Callable[[Any], Any]

# of one network, times AUTH_ALLOWANCE_FACTOR
REGISTRATIONS_PER_HOUR = 10
FAILED_REFRESHES_PER_5_MINUTES = 20
FAILED_LINKS_PER_5_MINUTES = 20
DECLINED_INVITATIONS_PER_5_MINUTES = 20
FAILED_SIGN_INS_PER_5_MINUTES = 10
LINK_REQUESTS_PER_HOUR = 20
WIDE_NETWORK_FACTOR, WIDE_NETWORK_PREFIX = 10, 48
"""An IPv6 network of that prefix has the failed sign-ins of so many networks."""
# of one account, invitation, user or organization
FAILED_SIGN_INS_OF_ACCOUNT_PER_MINUTE = 5
FAILED_SIGN_INS_OF_DEVICE_PER_5_MINUTES = 5
FAILED_JOINS_PER_15_MINUTES = 10
PASSWORD_CHECKS_PER_15_MINUTES = 10
PASSWORD_RESETS_PER_HOUR, PASSWORD_RESETS_OF_DEVICE_PER_HOUR = 10, 3
VERIFICATION_EMAILS_PER_HOUR = 3
INVITATIONS_PER_DAY = 50
ORGANIZATIONS_PER_DAY = 10
EXPORTS_PER_HOUR = 5


def request_origin(audience: TokenAudience) -> SessionOrigin:
    """Address and browser of the current request.

    audience: where the tokens of a session that it starts are accepted
    """
    address = request_context.client_ip()
    ip = None if address == "invalid" else address
    return SessionOrigin(ip, request.headers.get("User-Agent"), audience, g.get("device_marks", ""))


def _submitted_values() -> dict[str, Any]:
    body = g.get("arguments", {}).get("body") or {}
    return {**request.values.to_dict(), **{name: value for name, value in body.items() if value}}


def _pick_email(email: object = "", **_others: object) -> str:
    return str(email).strip()


def _pick_token(token: object = "", **_others: object) -> str:
    return str(token).strip()


def _submitted_email() -> str:
    """The address as it is stored, or the submitted text when it is no address."""
    text = _pick_email(**_submitted_values())
    try:
        return fields.normalize_email(text)
    except ValueError:
        return text


def _account_key() -> str:
    return crypto.hmac_hex("throttle", _submitted_email())


def _known_device() -> str | None:
    """What identifies the device of this request among those of the account, searched once."""
    if "known_device" not in g:
        email, address = _submitted_email(), request_context.client_ip()
        g.known_device = devices.find_known_device(g.get("device_marks", ""), email, address)
    device: str | None = g.known_device
    return device


def _is_known_device() -> bool:
    return _known_device() is not None


def _device_key() -> str:
    """The account with the known device, or with the network of an unknown one."""
    device = _known_device()
    return f"{_account_key()}:{f'known:{device}' if device else request_context.client_network()}"


def _sign_in_network_key() -> str:
    return _device_key() if _is_known_device() else request_context.client_network()


def _wide_network_key() -> str:
    return request_context.client_network(WIDE_NETWORK_PREFIX)


def _is_not_counted_by_wide_network() -> bool:
    return "/" not in _wide_network_key() or _is_known_device()


def _invitation_key() -> str:
    return crypto.hmac_hex("throttle", _pick_token(**_submitted_values()))


def _user_key() -> str:
    return str(g.principal.id)


def _organization_key() -> str:
    return str(g.principal.organization_id)


def _is_unauthorized(response: Response) -> bool:
    return response.status_code == 401


def _is_successful(response: Response) -> bool:
    return response.status_code == 200


def _is_redirect(response: Response) -> bool:
    return response.status_code == 303


def _is_refused(response: Response) -> bool:
    return 400 <= response.status_code < 500 and response.status_code != 429


def _limit_network(
    amount: int, period: str, scope: str, *, key: Callable[[], str] = request_context.client_network, **options: Any
) -> Decorator:
    return limiter.limiter.shared_limit(
        lambda: f"{amount * setting('AUTH_ALLOWANCE_FACTOR')} per {period}", scope=scope, key_func=key, **options
    )


def _limit(
    limit: str, scope: str, key: Callable[[], str], deduct_when: Callable[[Response], bool] | None = None
) -> Decorator:
    return limiter.limiter.shared_limit(limit, scope=scope, key_func=key, deduct_when=deduct_when)


limit_registrations = _limit_network(REGISTRATIONS_PER_HOUR, "hour", "register")
limit_refreshes = _limit_network(FAILED_REFRESHES_PER_5_MINUTES, "5 minutes", "refresh", deduct_when=_is_refused)
limit_links = _limit_network(FAILED_LINKS_PER_5_MINUTES, "5 minutes", "links", deduct_when=_is_refused)
limit_codes = _limit_network(FAILED_SIGN_INS_PER_5_MINUTES, "5 minutes", "code", deduct_when=_is_unauthorized)
limit_declined_invitations = _limit_network(DECLINED_INVITATIONS_PER_5_MINUTES, "5 minutes", "decline")
limit_new_organizations = _limit(f"{ORGANIZATIONS_PER_DAY} per day", "organizations", _user_key)
# Each call counts: the strength of a new password is estimated before the old one decides.
limit_password_changes = _limit(f"{PASSWORD_CHECKS_PER_15_MINUTES} per 15 minutes", "password", _user_key)
limit_exports = _limit(f"{EXPORTS_PER_HOUR} per hour", "export", _organization_key, _is_successful)


def limit_sign_in(view: Any) -> Any:
    """Limit failed sign-ins: of a network, of an account from a device or network, of an account from strangers.

    A device from which the account was signed in to before is counted alone, so that strangers cannot keep it out.
    """
    view = _limit_network(
        FAILED_SIGN_INS_PER_5_MINUTES,
        "5 minutes",
        "sign-in-from",
        key=_sign_in_network_key,
        deduct_when=_is_unauthorized,
    )(view)
    view = _limit_network(
        FAILED_SIGN_INS_PER_5_MINUTES * WIDE_NETWORK_FACTOR,
        "5 minutes",
        "sign-in-from-wide",
        key=_wide_network_key,
        deduct_when=_is_unauthorized,
        exempt_when=_is_not_counted_by_wide_network,
    )(view)
    view = _limit(
        f"{FAILED_SIGN_INS_OF_DEVICE_PER_5_MINUTES} per 5 minutes", "sign-in-at", _device_key, _is_unauthorized
    )(view)
    return limiter.limiter.shared_limit(
        f"{FAILED_SIGN_INS_OF_ACCOUNT_PER_MINUTE} per minute",
        scope="sign-in",
        key_func=_account_key,
        deduct_when=_is_unauthorized,
        exempt_when=_is_known_device,
    )(view)


def limit_password_resets(view: Any) -> Any:
    """Limit the requests for a reset link: of a network, of an account from a device or network, of an account."""
    view = _limit_network(LINK_REQUESTS_PER_HOUR, "hour", "reset")(view)
    view = _limit(f"{PASSWORD_RESETS_OF_DEVICE_PER_HOUR} per hour", "reset-at", _device_key)(view)
    return limiter.limiter.shared_limit(
        f"{PASSWORD_RESETS_PER_HOUR} per hour", scope="reset", key_func=_account_key, exempt_when=_is_known_device
    )(view)


def limit_verification_emails(view: Any) -> Any:
    """Limit the requests for a verification link, of a user and of a network."""
    view = _limit_network(LINK_REQUESTS_PER_HOUR, "hour", "verification")(view)
    return _limit(f"{VERIFICATION_EMAILS_PER_HOUR} per hour", "verification", _user_key)(view)


def limit_email_changes(view: Any) -> Any:
    """Limit the links to new addresses of a user, and the attempts of a network, which tell whether one is taken."""
    view = _limit_network(LINK_REQUESTS_PER_HOUR, "hour", "email-change")(view)
    return _limit(f"{VERIFICATION_EMAILS_PER_HOUR} per hour", "email-change-of", _user_key, _is_redirect)(view)


def limit_failed_joins(view: Any) -> Any:
    """Limit the wrong passwords for an invitation, and the refused one-time tokens of a network."""
    view = limit_links(view)
    return _limit(f"{FAILED_JOINS_PER_15_MINUTES} per 15 minutes", "join", _invitation_key, _is_unauthorized)(view)


def limit_invitations(*, sent_status: int) -> Decorator:
    """Limit the invitations of an organization.

    sent_status: status of a response after which an invitation counts
    """

    def is_sent(response: Response) -> bool:
        return response.status_code == sent_status

    return _limit(f"{INVITATIONS_PER_DAY} per day", "invitations", _organization_key, is_sent)
