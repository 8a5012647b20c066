"""Sign-in limits shared by API and pages."""

from typing import Any

from flask import g, request

from saas_api.accounts.sessions import SessionOrigin
from saas_api.core import crypto, request_context
from saas_api.core.limits import limiter
from saas_api.core.settings import setting


def limit_per_address(amount: int, period: str, scope: str) -> Any:
    """At most so many from one address; more where AUTH_ALLOWANCE_FACTOR says so."""
    return limiter.limiter.shared_limit(
        lambda: f"{amount * setting('AUTH_ALLOWANCE_FACTOR')} per {period}",
        scope=scope,
        key_func=request_context.client_ip,
    )


def account_key() -> str:
    """The account that is tried, known or not."""
    return crypto.hmac_hex("throttle", _submitted_value("email").lower())


def account_and_address_key() -> str:
    """The account that is tried, and from where."""
    return f"{account_key()}:{request_context.client_ip()}"


def caller_key() -> str:
    """Who is signed in."""
    return str(g.principal.id)


def token_key() -> str:
    """The token of a link."""
    return crypto.hmac_hex("throttle", _submitted_value("token"))


def global_key() -> str:
    """All together."""
    return "everybody"


def is_unauthorized(response: Any) -> bool:
    """Whether the attempt was wrong."""
    return bool(response.status_code == 401)


def request_origin() -> SessionOrigin:
    """Where the request comes from."""
    address = request_context.client_ip()
    return SessionOrigin(None if address == "invalid" else address, request.headers.get("User-Agent"))


def limit_sign_in(view: Any) -> Any:
    """The limits of signing in."""
    limits = (
        limiter.limiter.shared_limit("1000 per 5 minutes", scope="sign-in", key_func=global_key),
        limiter.limiter.shared_limit(
            "10 per 15 minutes", scope="sign-in", key_func=account_key, deduct_when=is_unauthorized
        ),
        limiter.limiter.shared_limit(
            "5 per 5 minutes", scope="sign-in-at", key_func=account_and_address_key, deduct_when=is_unauthorized
        ),
        limit_per_address(10, "5 minutes", "sign-in-from"),
    )
    for limit in reversed(limits):  # last: what another refuses must not use up everybody's
        view = limit(view)
    return view


def _submitted_value(name: str) -> str:
    body = g.get("arguments", {}).get("body") or {}
    return str(body.get(name) or request.values.get(name, "")).strip()
