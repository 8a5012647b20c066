"""The door to sign-up, sign-in, sessions and one-time links.

The throttles count before anything is looked up, the lowest first.
"""

from typing import Any
from uuid import UUID

from flask import Blueprint, g, request

from saas_api.auth import service as auth
from saas_api.auth.schemas import (
    AddressIn,
    ChangeIn,
    JoinIn,
    LinkIn,
    LoginIn,
    ProfileOut,
    RefreshIn,
    RegisterIn,
    ResetIn,
    SessionOut,
    SignedInOut,
    SwitchedOut,
    SwitchIn,
    TokensOut,
    VerifiedOut,
)
from saas_api.core import crypto
from saas_api.core.access import PERMISSIONS, allows, public, require
from saas_api.core.errors import InvalidOneTimeToken, TooManyRequests, Unauthenticated
from saas_api.core.http import Answer, PageQuery, client_ip, endpoint, page_of
from saas_api.core.limits import limiter
from saas_api.core.settings import setting
from saas_api.organizations.service import NoSuchOrganization, UserExists
from saas_api.users.service import EmailTaken

bp = Blueprint("auth", __name__)


def _per_address(amount: int, period: str) -> Any:
    return limiter.limit(lambda: f"{amount * setting('AUTH_ALLOWANCE_FACTOR')} per {period}", key_func=client_ip)


def _account() -> str:
    return crypto.mac("throttle", g.arguments["body"]["email"].lower())


def _account_and_address() -> str:
    return f"{_account()}:{client_ip()}"


def _caller() -> str:
    return str(g.principal.id)


def _link() -> str:
    return crypto.mac("throttle", g.arguments["body"]["token"])


def _everybody() -> str:
    return "everybody"


def _is_refused(response: Any) -> bool:
    return bool(response.status_code == 401)


@bp.post("/auth/register")
@public
@_per_address(10, "hour")
@endpoint(body=RegisterIn(), returns=SignedInOut(), status=201, errors=(EmailTaken, TooManyRequests))
def register(body: dict[str, Any]) -> Any:
    """Sign up: a person and their organization."""
    return Answer(auth.register(**body, origin=_origin()), message="Welcome.")


@bp.post("/auth/login")
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


@bp.post("/auth/refresh")
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


@bp.post("/auth/logout")
@require(None)
@endpoint()
def logout() -> Any:
    """Sign out: this session's tokens are dead at once."""
    auth.sign_out(g.principal)
    return Answer({}, message="Signed out.")


@bp.get("/auth/me")
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


@bp.get("/auth/sessions")
@require(None)
@endpoint(query=PageQuery(), returns=page_of("sessions", SessionOut()))
def list_sessions(query: dict[str, Any]) -> Any:
    """List your sessions, newest first."""
    return auth.list_sessions(g.principal, query)


@bp.delete('/auth/sessions/<id("ses"):session_id>')
@require(None)
@endpoint(errors=(auth.NoSuchSession,))
def revoke_session(session_id: UUID) -> Any:
    """End one of your sessions: its tokens are dead at once."""
    auth.revoke(g.principal, session_id)
    return Answer({}, message="Ended.")


@bp.post("/auth/switch-organization")
@require(None)
@endpoint(body=SwitchIn(), returns=SwitchedOut(), errors=(NoSuchOrganization, auth.InvalidToken))
def switch(body: dict[str, Any]) -> Any:
    """Go on in another of your organizations: this session's refresh token is spent for new tokens."""
    return auth.switch(g.principal, **body)


@bp.post("/auth/request-email-verification")
@bp.post("/auth/request-verification")
@require(None)
@limiter.limit("3 per hour", key_func=_caller)
@_per_address(20, "hour")
@endpoint(errors=(auth.AlreadyVerified, TooManyRequests))
def request_verification() -> Any:
    """Send a new link to your address; older ones lead nowhere."""
    auth.request_verification(g.principal)
    return Answer({}, message="Sent.")


@bp.post("/auth/verify-email")
@public
@_per_address(20, "5 minutes")
@endpoint(body=LinkIn(), returns=VerifiedOut(), errors=(InvalidOneTimeToken, TooManyRequests))
def verify_email(body: dict[str, Any]) -> Any:
    """Verify an address with the token of its link."""
    return Answer(auth.verify_email(body["token"]), message="Verified.")


@bp.post("/auth/request-password-reset")
@public
@limiter.limit("3 per hour", key_func=_account)
@_per_address(20, "hour")
@endpoint(body=AddressIn(), errors=(TooManyRequests,))
def request_password_reset(body: dict[str, Any]) -> Any:
    """Send a link to choose a new password; the answer is the same for every address."""
    auth.request_password_reset(body["email"])
    return Answer({}, message="If there is an account with this address, a link is on its way.")


@bp.post("/auth/reset-password")
@public
@_per_address(20, "5 minutes")
@endpoint(body=ResetIn(), errors=(InvalidOneTimeToken, TooManyRequests))
def reset_password(body: dict[str, Any]) -> Any:
    """Choose a new password with the token of a link: every session ends."""
    auth.reset_password(**body)
    return Answer({}, message="Changed; sign in with the new password.")


@bp.post("/auth/change-password")
@require(None)
@limiter.limit("10 per 15 minutes", key_func=_caller, deduct_when=_is_refused)
@endpoint(body=ChangeIn(), errors=(auth.InvalidCredentials, TooManyRequests))
def change_password(body: dict[str, Any]) -> Any:
    """Change your password: your other sessions end."""
    auth.change_password(g.principal, **body)
    return Answer({}, message="Changed.")


@bp.post("/team/accept-invitation")
@public
@limiter.limit("10 per 15 minutes", key_func=_link, deduct_when=_is_refused)
@_per_address(20, "5 minutes")
@endpoint(
    body=JoinIn(),
    returns=SignedInOut(),
    errors=(InvalidOneTimeToken, auth.InvalidCredentials, UserExists, EmailTaken, TooManyRequests),
)
def accept_invitation(body: dict[str, Any]) -> Any:
    """Accept an invitation and sign in; who has an account proves it by its password, others choose one."""
    return Answer(auth.join(**body, origin=_origin()), message="Welcome.")


def _origin() -> auth.Origin:
    address = client_ip()
    return auth.Origin(None if address == "invalid" else address, request.headers.get("User-Agent"))
