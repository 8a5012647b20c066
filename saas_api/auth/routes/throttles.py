"""Where somebody comes from, and how often they may try: one count for the API and its pages."""

from typing import Any

from flask import g, request

from saas_api.auth import service as auth
from saas_api.core import crypto
from saas_api.core.http import client_ip
from saas_api.core.limits import limiter
from saas_api.core.settings import setting


def per_address(amount: int, period: str, scope: str) -> Any:
    """At most so many from one address; more where AUTH_ALLOWANCE_FACTOR says so."""
    return limiter.shared_limit(
        lambda: f"{amount * setting('AUTH_ALLOWANCE_FACTOR')} per {period}", scope=scope, key_func=client_ip
    )


def account() -> str:
    """The account that is tried, known or not."""
    return crypto.mac("throttle", _sent("email").lower())


def account_and_address() -> str:
    """The account that is tried, and from where."""
    return f"{account()}:{client_ip()}"


def caller() -> str:
    """Who is signed in."""
    return str(g.principal.id)


def link() -> str:
    """The token of a link."""
    return crypto.mac("throttle", _sent("token"))


def everybody() -> str:
    """All together."""
    return "everybody"


def is_refused(response: Any) -> bool:
    """Whether the attempt was wrong."""
    return bool(response.status_code == 401)


def origin() -> auth.Origin:
    """Where the request comes from."""
    address = client_ip()
    return auth.Origin(None if address == "invalid" else address, request.headers.get("User-Agent"))


def sign_in(view: Any) -> Any:
    """The limits of signing in."""
    limits = (
        limiter.shared_limit("1000 per 5 minutes", scope="sign-in", key_func=everybody),
        limiter.shared_limit("10 per 15 minutes", scope="sign-in", key_func=account, deduct_when=is_refused),
        limiter.shared_limit(
            "5 per 5 minutes", scope="sign-in-at", key_func=account_and_address, deduct_when=is_refused
        ),
        per_address(10, "5 minutes", "sign-in-from"),
    )
    for limit in reversed(limits):  # last: what another refuses must not use up everybody's
        view = limit(view)
    return view


def _sent(name: str) -> str:
    body = g.get("arguments", {}).get("body") or {}
    return str(body.get(name) or request.values.get(name, "")).strip()
