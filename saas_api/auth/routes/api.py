"""The door to sign-up, sign-in, sessions and one-time links.

The throttles count before anything is looked up, the lowest first.
"""

from typing import Any
from uuid import UUID

from flask import Blueprint, g, request

from saas_api.auth import service as auth
from saas_api.auth.routes import throttles
from saas_api.auth.routes.throttles import is_refused, per_address
from saas_api.auth.schemas import (
    AddressIn,
    ChangePasswordIn,
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
from saas_api.core.access import PERMISSIONS, allows, public, require
from saas_api.core.errors import InvalidOneTimeToken, TooManyRequests, Unauthenticated
from saas_api.core.http import Answer, PageQuery, alias, endpoint, page_of
from saas_api.core.limits import limiter
from saas_api.organizations.service import NoSuchOrganization, UserExists
from saas_api.users.service import EmailTaken

bp = Blueprint("api", __name__)


@bp.post("/auth/register")
@public
@per_address(10, "hour", "register")
@endpoint(
    operation_id="register",
    tag="auth",
    body=RegisterIn(),
    returns=SignedInOut(),
    status=201,
    errors=(EmailTaken, TooManyRequests),
)
def register(body: dict[str, Any]) -> Any:
    """Sign up: a person and their organization."""
    return Answer(auth.register(**body, origin=throttles.origin()), message="Welcome.")


@bp.post("/auth/login")
@public
@throttles.sign_in
@endpoint(
    operation_id="log_in",
    tag="auth",
    body=LoginIn(),
    returns=SignedInOut(),
    errors=(auth.InvalidCredentials, auth.NoOrganization, TooManyRequests),
)
def login(body: dict[str, Any]) -> Any:
    """Sign in."""
    return auth.sign_in(**body, origin=throttles.origin())


@bp.post("/auth/refresh")
@public
@per_address(20, "5 minutes", "refresh")
@endpoint(
    operation_id="refresh_tokens",
    tag="auth",
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
@endpoint(operation_id="log_out", tag="auth", is_replayable=False)
def logout() -> Any:
    """Sign out: this session's tokens are dead at once."""
    auth.sign_out(g.principal)
    return Answer({}, message="Signed out.")


@bp.get("/auth/me")
@require(None)
@endpoint(operation_id="get_profile", tag="auth", returns=ProfileOut())
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
@endpoint(operation_id="list_sessions", tag="auth", query=PageQuery(), returns=page_of("sessions", SessionOut()))
def list_sessions(query: dict[str, Any]) -> Any:
    """List your sessions, newest first."""
    return auth.list_sessions(g.principal, query)


@bp.delete('/auth/sessions/<id("ses"):session_id>')
@require(None)
@endpoint(operation_id="revoke_session", tag="auth", errors=(auth.NoSuchSession,))
def revoke_session(session_id: UUID) -> Any:
    """End one of your sessions: its tokens are dead at once."""
    auth.revoke(g.principal, session_id)
    return Answer({}, message="Ended.")


@bp.post("/auth/switch-organization")
@require(None)
@endpoint(
    operation_id="switch_organization",
    tag="auth",
    is_replayable=False,
    body=SwitchIn(),
    returns=SwitchedOut(),
    errors=(NoSuchOrganization, auth.InvalidToken),
)
def switch(body: dict[str, Any]) -> Any:
    """Go on in another of your organizations: this session's refresh token is spent for new tokens."""
    return auth.switch(g.principal, **body)


@bp.post("/auth/request-email-verification")
@require(None)
@limiter.shared_limit("3 per hour", scope="verification", key_func=throttles.caller)
@per_address(20, "hour", "verification")
@endpoint(
    operation_id="request_email_verification",
    tag="auth",
    is_replayable=False,
    errors=(auth.AlreadyVerified, TooManyRequests),
)
def request_verification() -> Any:
    """Send a new link to your address; older ones lead nowhere."""
    auth.request_verification(g.principal)
    return Answer({}, message="Sent.")


bp.post("/auth/request-verification", endpoint="request_verification_link")(
    alias(request_verification, "request_verification")
)


@bp.post("/auth/verify-email")
@public
@per_address(20, "5 minutes", "links")
@endpoint(
    operation_id="verify_email",
    tag="auth",
    body=LinkIn(),
    returns=VerifiedOut(),
    errors=(InvalidOneTimeToken, TooManyRequests),
)
def verify_email(body: dict[str, Any]) -> Any:
    """Verify an address with the token of its link."""
    return Answer(auth.verify_email(body["token"]), message="Verified.")


@bp.post("/auth/request-password-reset")
@public
@limiter.shared_limit("3 per hour", scope="reset", key_func=throttles.account)
@per_address(20, "hour", "reset")
@endpoint(operation_id="request_password_reset", tag="auth", body=AddressIn(), errors=(TooManyRequests,))
def request_password_reset(body: dict[str, Any]) -> Any:
    """Send a link to choose a new password; the answer is the same for every address."""
    auth.request_password_reset(body["email"])
    return Answer({}, message="If there is an account with this address, a link is on its way.")


@bp.post("/auth/reset-password")
@public
@per_address(20, "5 minutes", "links")
@endpoint(operation_id="reset_password", tag="auth", body=ResetIn(), errors=(InvalidOneTimeToken, TooManyRequests))
def reset_password(body: dict[str, Any]) -> Any:
    """Choose a new password with the token of a link: every session ends."""
    auth.reset_password(**body)
    return Answer({}, message="Changed; sign in with the new password.")


@bp.post("/auth/change-password")
@require(None)
@limiter.shared_limit("10 per 15 minutes", scope="password", key_func=throttles.caller, deduct_when=is_refused)
@endpoint(
    operation_id="change_password",
    tag="auth",
    is_replayable=False,
    body=ChangePasswordIn(),
    errors=(auth.InvalidCredentials, TooManyRequests),
)
def change_password(body: dict[str, Any]) -> Any:
    """Change your password: your other sessions end."""
    auth.change_password(g.principal, **body)
    return Answer({}, message="Changed.")


@bp.post("/team/accept-invitation")
@public
@limiter.shared_limit("10 per 15 minutes", scope="join", key_func=throttles.link, deduct_when=is_refused)
@per_address(20, "5 minutes", "links")
@endpoint(
    operation_id="accept_invitation",
    tag="organizations",
    body=JoinIn(),
    returns=SignedInOut(),
    errors=(InvalidOneTimeToken, auth.InvalidCredentials, UserExists, EmailTaken, TooManyRequests),
)
def accept_invitation(body: dict[str, Any]) -> Any:
    """Accept an invitation and sign in; who has an account proves it by its password, others choose one."""
    return Answer(auth.join(**body, origin=throttles.origin()), message="Welcome.")
