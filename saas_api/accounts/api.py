"""API of sign-in and sessions (/auth), the organization and its audit log, members and invitations (/team)."""

from typing import Any
from uuid import UUID

from flask import Blueprint, g, request

from saas_api.accounts import (
    audit,
    invitations,
    members,
    organizations,
    passwords,
    sessions,
    sign_in,
    throttles,
    users,
)
from saas_api.accounts.invitations import AlreadyMember, InvitationExists, InvitationNotFound
from saas_api.accounts.members import MemberNotFound, OwnerRequired, TeamView
from saas_api.accounts.organizations import OrganizationNotFound
from saas_api.accounts.schemas import (
    AcceptInvitationIn,
    AuditEventOut,
    AuditQuery,
    ChangePasswordIn,
    EmailVerifiedOut,
    ForgotPasswordIn,
    FreshAccessTokenOut,
    InvitationIn,
    InvitationOut,
    LoginIn,
    MemberEnvelope,
    MemberRoleIn,
    OrganizationEnvelope,
    OrganizationIn,
    OrganizationUpdate,
    ProfileOut,
    ReauthenticateIn,
    RefreshIn,
    RegisterIn,
    ResetPasswordIn,
    SessionOut,
    SessionStartedOut,
    SwitchedSessionOut,
    SwitchOrganizationIn,
    TeamOut,
    TokenIn,
    TokensOut,
    TransferOwnershipIn,
)
from saas_api.accounts.sessions import InvalidCredentials, SessionNotFound
from saas_api.accounts.sign_in import OrganizationChoice
from saas_api.accounts.tokens import InvalidToken, RefreshTokenReused, TokenAudience, TokenExpired
from saas_api.accounts.two_factor import InvalidTwoFactorCode, TwoFactorRequired
from saas_api.accounts.users import AlreadyVerified, EmailTaken
from saas_api.core import access, fields
from saas_api.core.access import PERMISSIONS, EmailNotVerified, FreshLoginRequired, public_view, require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.errors import Forbidden, InvalidOneTimeToken, TooManyRequests, Unauthenticated
from saas_api.core.fields import PageQuery
from saas_api.core.web import endpoint as web_endpoint
from saas_api.core.web.endpoint import ViewResult, endpoint

bp = Blueprint("accounts", __name__)


@bp.post("/auth/register")
@public_view
@throttles.limit_registrations
@endpoint(
    operation_id="register",
    tag="auth",
    body=RegisterIn(),
    returns=SessionStartedOut(),
    status=201,
    errors=(EmailTaken, TooManyRequests),
)
def register(body: dict[str, Any]) -> Any:
    """Create a user with an organization, and start a session."""
    return ViewResult(sign_in.register(**body, origin=throttles.request_origin(TokenAudience.API)), message="Welcome.")


@bp.post("/auth/login")
@public_view
@throttles.limit_sign_in
@endpoint(
    operation_id="log_in",
    tag="auth",
    body=LoginIn(),
    returns=SessionStartedOut(),
    errors=(InvalidCredentials, TwoFactorRequired, InvalidTwoFactorCode, TooManyRequests),
)
def login(body: dict[str, Any]) -> Any:
    """Start a session; a user who is not a member of any organization gets one without an organization.

    A user with two-factor sign-in gets TWO_FACTOR_REQUIRED without a `code`.
    """
    choice = OrganizationChoice(body.pop("organization_id"))
    return sign_in.log_in(**body, choice=choice, origin=throttles.request_origin(TokenAudience.API))


@bp.post("/auth/refresh")
@public_view
@throttles.limit_refreshes
@endpoint(
    operation_id="refresh_tokens",
    tag="auth",
    body=RefreshIn(),
    returns=TokensOut(),
    errors=(Unauthenticated, InvalidToken, TokenExpired, RefreshTokenReused, TooManyRequests),
)
def refresh(body: dict[str, Any]) -> Any:
    """Exchange a refresh token for new tokens."""
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    token = body["refresh_token"] or (bearer.strip() if scheme.lower() == "bearer" else "")
    if not token:
        raise Unauthenticated("Send the refresh token in the body or as Authorization: Bearer <token>.")
    return sessions.refresh_session(token, TokenAudience.API)


@bp.post("/auth/logout")
@require_permission(None)
@endpoint(operation_id="log_out", tag="auth", is_replayable=False)
def logout() -> Any:
    """End the current session; its tokens are rejected immediately."""
    sessions.end_session(g.principal)
    return ViewResult({}, message="Signed out.")


@bp.get("/auth/me")
@require_permission(None)
@endpoint(operation_id="get_profile", tag="auth", returns=ProfileOut())
def get_profile() -> Any:
    """Retrieve the signed-in user, with organizations and permissions."""
    profile = sessions.get_profile(g.principal)
    return {
        "user": profile.user,
        "organization": profile.organization,
        "role": profile.role,
        "permissions": sorted(name for name in PERMISSIONS if access.has_permission(g.principal, name)),
        "organizations": [
            {"id": organization.id, "name": organization.name, "role": role}
            for organization, role in profile.organizations
        ],
    }


@bp.get("/auth/sessions")
@require_permission(None)
@endpoint(
    operation_id="list_sessions", tag="auth", query=PageQuery(), returns=fields.page_schema("sessions", SessionOut())
)
def list_sessions(query: dict[str, Any]) -> Any:
    """List your active sessions, newest first."""
    page_request, _ = PageRequest.from_query(query)
    return sessions.list_sessions(g.principal, page_request)


@bp.delete('/auth/sessions/<id("ses"):session_id>')
@require_permission(None)
@endpoint(operation_id="revoke_session", tag="auth", errors=(SessionNotFound,))
def revoke_session(session_id: UUID) -> Any:
    """End one of your sessions; its tokens are rejected immediately."""
    sessions.revoke_session(g.principal, session_id)
    return ViewResult({}, message="Ended.")


@bp.post("/auth/switch-organization")
@require_permission(None)
@endpoint(
    operation_id="switch_organization",
    tag="auth",
    is_replayable=False,
    body=SwitchOrganizationIn(),
    returns=SwitchedSessionOut(),
    errors=(OrganizationNotFound, InvalidToken),
)
def switch_organization(body: dict[str, Any]) -> Any:
    """Continue the session in another of your organizations; its refresh token is replaced by new tokens."""
    return sessions.switch_organization(g.principal, body["organization_id"], TokenAudience.API)


@bp.post("/auth/request-email-verification")
@require_permission(None)
@throttles.limit_verification_emails
@endpoint(
    operation_id="request_email_verification",
    tag="auth",
    is_replayable=False,
    errors=(AlreadyVerified, TooManyRequests),
)
def request_verification() -> Any:
    """Send a new verification link to your address; earlier links no longer work."""
    users.request_email_verification(g.principal)
    return ViewResult({}, message="Sent.")


bp.post("/auth/request-verification", endpoint="request_verification_link")(
    web_endpoint.alias(request_verification, "request_verification")
)


@bp.post("/auth/verify-email")
@public_view
@throttles.limit_links
@endpoint(
    operation_id="verify_email",
    tag="auth",
    body=TokenIn(),
    returns=EmailVerifiedOut(),
    errors=(InvalidOneTimeToken, TooManyRequests),
)
def verify_email(body: dict[str, Any]) -> Any:
    """Verify an email address with the token of a mailed link."""
    return ViewResult(users.verify_email(body["token"]), message="Verified.")


@bp.post("/auth/request-password-reset")
@public_view
@throttles.limit_password_resets
@endpoint(operation_id="request_password_reset", tag="auth", body=ForgotPasswordIn(), errors=(TooManyRequests,))
def request_password_reset(body: dict[str, Any]) -> Any:
    """Send a link that resets the password; the response is the same for an unknown address."""
    passwords.request_password_reset(**body)
    return ViewResult({}, message="If there is an account with this address, a link is on its way.")


@bp.post("/auth/reset-password")
@public_view
@throttles.limit_links
@endpoint(
    operation_id="reset_password", tag="auth", body=ResetPasswordIn(), errors=(InvalidOneTimeToken, TooManyRequests)
)
def reset_password(body: dict[str, Any]) -> Any:
    """Set a new password with the token of a mailed link; all sessions of the user end."""
    passwords.reset_password(**body)
    return ViewResult({}, message="Changed; sign in with the new password.")


@bp.post("/auth/change-password")
@require_permission(None)
@throttles.limit_password_changes
@endpoint(
    operation_id="change_password",
    tag="auth",
    is_replayable=False,
    body=ChangePasswordIn(),
    errors=(InvalidCredentials, TooManyRequests),
)
def change_password(body: dict[str, Any]) -> Any:
    """Change your password; your other sessions end."""
    passwords.change_password(g.principal, **body)
    return ViewResult({}, message="Changed.")


@bp.post("/auth/reauthenticate")
@require_permission(None)
@throttles.limit_password_changes
@endpoint(
    operation_id="reauthenticate",
    tag="auth",
    is_replayable=False,
    body=ReauthenticateIn(),
    returns=FreshAccessTokenOut(),
    errors=(InvalidCredentials, TooManyRequests),
)
def reauthenticate(body: dict[str, Any]) -> Any:
    """Give your password again; the new access token may do what requires it until `fresh_until`."""
    return passwords.reauthenticate(g.principal, body["password"], TokenAudience.API)


@bp.post("/team/accept-invitation")
@public_view
@throttles.limit_failed_joins
@endpoint(
    operation_id="accept_invitation",
    tag="organizations",
    body=AcceptInvitationIn(),
    returns=SessionStartedOut(),
    errors=(
        InvalidOneTimeToken,
        InvalidCredentials,
        TwoFactorRequired,
        InvalidTwoFactorCode,
        AlreadyMember,
        EmailTaken,
        TooManyRequests,
    ),
)
def accept_invitation(body: dict[str, Any]) -> Any:
    """Accept an invitation and start a session, with the password of the account or, for a new user, a new one."""
    return ViewResult(
        sign_in.accept_and_log_in(**body, origin=throttles.request_origin(TokenAudience.API)), message="Welcome."
    )


@bp.post("/organizations")
@require_permission(None)
@throttles.limit_new_organizations
@endpoint(
    operation_id="create_organization",
    tag="organizations",
    body=OrganizationIn(),
    returns=OrganizationEnvelope(),
    status=201,
    errors=(TooManyRequests,),
)
def create_organization(body: dict[str, Any]) -> Any:
    """Create an organization that you own; switch to it to continue the session there."""
    return ViewResult({"organization": organizations.create_own_organization(g.principal, **body)}, message="Created.")


@bp.get("/organization")
@require_permission("organization:read")
@endpoint(operation_id="get_organization", tag="organizations", returns=OrganizationEnvelope())
def get_organization() -> Any:
    """Retrieve the organization."""
    return {"organization": organizations.get_organization(engine.session(), g.principal.organization_id)}


@bp.patch("/organization")
@require_permission("organization:write")
@endpoint(
    operation_id="update_organization",
    tag="organizations",
    body=OrganizationUpdate(),
    returns=OrganizationEnvelope(),
    errors=(TooManyRequests, EmailNotVerified),
)
def update_organization(body: dict[str, Any]) -> Any:
    """Change the name, billing email (a link is sent to verify it) or time zone (from the next billing period)."""
    return {"organization": organizations.update_organization(engine.session(), g.principal, body)}


@bp.get("/organization/audit-log")
@require_permission("audit:read")
@endpoint(
    operation_id="list_audit_events",
    tag="organizations",
    reads_replica=True,
    query=AuditQuery(),
    returns=fields.page_schema("entries", AuditEventOut()),
)
def list_audit_events(query: dict[str, Any]) -> Any:
    """List audit events, newest first; dates are days in the organization's time zone."""
    organization = organizations.get_organization(engine.session(), g.principal.organization_id)
    page_request, filters = PageRequest.from_query(query)
    return audit.list_events(engine.session(), organization, page_request, **filters)


@bp.get("/team/members")
@require_permission("members:read")
@endpoint(operation_id="list_members", tag="organizations", returns=TeamOut())
def list_members() -> Any:
    """List the members and the open invitations."""
    return _team()


@bp.post("/team/invite")
@require_permission("members:write")
@throttles.limit_invitations(sent_status=201)
@endpoint(
    operation_id="create_invitation",
    tag="organizations",
    body=InvitationIn(),
    returns=InvitationOut(),
    status=201,
    errors=(
        AlreadyMember,
        InvitationExists,
        EmailNotVerified,
        FreshLoginRequired,
        Forbidden,
        TooManyRequests,
    ),
)
def create_invitation(body: dict[str, Any]) -> Any:
    """Invite a user by mail; to send the mail again, cancel the invitation and create another."""
    return ViewResult(invitations.create_invitation(engine.session(), g.principal, **body), message="Invited.")


@bp.post("/team/decline-invitation")
@public_view
@throttles.limit_declined_invitations
@endpoint(
    operation_id="decline_invitation",
    tag="organizations",
    body=TokenIn(),
    errors=(InvalidOneTimeToken, TooManyRequests),
)
def decline_invitation(body: dict[str, Any]) -> Any:
    """Decline an invitation with the token of its mailed link."""
    invitations.decline_invitation(body["token"])
    return ViewResult({}, message="Declined.")


@bp.delete('/team/invitations/<id("ivt"):invitation_id>')
@require_permission("members:write")
@endpoint(operation_id="revoke_invitation", tag="organizations", errors=(InvitationNotFound,))
def revoke_invitation(invitation_id: UUID) -> Any:
    """Cancel an open invitation; its link no longer works."""
    invitations.revoke_invitation(engine.session(), g.principal, invitation_id)
    return ViewResult({}, message="Canceled.")


@bp.put('/team/members/<id("usr"):user_id>/role')
@require_permission("members:promote")
@endpoint(
    operation_id="change_member_role",
    tag="organizations",
    body=MemberRoleIn(),
    returns=MemberEnvelope(),
    errors=(FreshLoginRequired, MemberNotFound, OwnerRequired),
)
def change_member_role(user_id: UUID, body: dict[str, Any]) -> Any:
    """Change the role of a member; it applies from the next request on."""
    return {"user": members.change_role(engine.session(), g.principal, user_id, body["role"])}


@bp.post("/team/transfer-ownership")
@require_permission("members:promote")
@endpoint(
    operation_id="transfer_ownership",
    tag="organizations",
    body=TransferOwnershipIn(),
    returns=TeamOut(),
    errors=(FreshLoginRequired, MemberNotFound),
)
def transfer_ownership(body: dict[str, Any]) -> Any:
    """Transfer the ownership to another member; you become an admin."""
    members.transfer_ownership(engine.session(), g.principal, body["user_id"])
    return ViewResult(_team(), message="Transferred.")


@bp.post("/team/leave")
@require_permission("members:read")
@endpoint(
    operation_id="leave_organization",
    tag="organizations",
    is_replayable=False,
    returns=SwitchedSessionOut(),
    errors=(OwnerRequired, InvalidToken),
)
def leave_organization() -> Any:
    """Leave the organization; the session continues in the one you joined first, or without an organization."""
    return ViewResult(sessions.leave_organization(g.principal, TokenAudience.API), message="You have left.")


def _team() -> TeamView:
    return members.get_team(engine.session(), g.principal.organization_id)
