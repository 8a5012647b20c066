"""The door to sign-up, sign-in and sessions; the throttles count before anything is looked up, the lowest first."""

from typing import Any

from flask import Blueprint, g, request

from saas_api.auth import service as auth
from saas_api.auth.schemas import LoginIn, ProfileOut, RefreshIn, RegisterIn, SignedInOut, TokensOut
from saas_api.core import crypto
from saas_api.core.access import PERMISSIONS, allows, public, require
from saas_api.core.errors import TooManyRequests, Unauthenticated
from saas_api.core.http import Answer, client_ip, endpoint
from saas_api.core.limits import limiter
from saas_api.core.settings import setting
from saas_api.users.service import EmailTaken

bp = Blueprint("auth", __name__)


def _per_address(amount: int, period: str) -> Any:
    return limiter.limit(lambda: f"{amount * setting('AUTH_ALLOWANCE_FACTOR')} per {period}", key_func=client_ip)


def _account() -> str:
    return crypto.mac("throttle", g.arguments["body"]["email"].lower())


def _account_and_address() -> str:
    return f"{_account()}:{client_ip()}"


def _everybody() -> str:
    return "everybody"


def _is_refused(response: Any) -> bool:
    return bool(response.status_code == 401)


@bp.post("/register")
@public
@_per_address(10, "hour")
@endpoint(body=RegisterIn(), returns=SignedInOut(), status=201, errors=(EmailTaken, TooManyRequests))
def register(body: dict[str, Any]) -> Any:
    """Sign up: a person and their organization."""
    return Answer(auth.register(**body, origin=_origin()), message="Welcome.")


@bp.post("/login")
@public
@limiter.limit("1000 per 5 minutes", key_func=_everybody)  # last: what another refuses must not use up everybody's
@limiter.limit("10 per 15 minutes", key_func=_account, deduct_when=_is_refused)
@limiter.limit("5 per 5 minutes", key_func=_account_and_address, deduct_when=_is_refused)
@_per_address(10, "5 minutes")
@endpoint(
    body=LoginIn(),
    returns=SignedInOut(),
    errors=(auth.InvalidCredentials, auth.NoOrganization, TooManyRequests),
)
def login(body: dict[str, Any]) -> Any:
    """Sign in."""
    return auth.sign_in(**body, origin=_origin())


@bp.post("/refresh")
@public
@_per_address(20, "5 minutes")
@endpoint(
    body=RefreshIn(),
    returns=TokensOut(),
    errors=(auth.InvalidToken, auth.TokenExpired, auth.TokenReused, TooManyRequests),
)
def refresh(body: dict[str, Any]) -> Any:
    """Exchange a refresh token for the next pair of tokens."""
    scheme, _, offered = request.headers.get("Authorization", "").partition(" ")
    token = body["refresh_token"] or (offered.strip() if scheme.lower() == "bearer" else "")
    if not token:
        raise Unauthenticated("Send the refresh token in the body or as Authorization: Bearer <token>.")
    return auth.refresh(token)


@bp.post("/logout")
@require(None)
@endpoint()
def logout() -> Any:
    """Sign out: this session's tokens are dead at once."""
    auth.sign_out(g.principal.session_id)
    return Answer({}, message="Signed out.")


@bp.get("/me")
@require(None)
@endpoint(returns=ProfileOut())
def me() -> Any:
    """Who is signed in."""
    known = auth.profile(g.principal)
    return {
        "user": known.user,
        "organization": known.organization,
        "role": known.role,
        "permissions": sorted(name for name in PERMISSIONS if allows(g.principal, name)),
        "organizations": [
            {"id": organization.id, "name": organization.name, "role": role}
            for organization, role in known.organizations
        ],
    }


def _origin() -> auth.Origin:
    address = client_ip()
    return auth.Origin(None if address == "invalid" else address, request.headers.get("User-Agent"))
