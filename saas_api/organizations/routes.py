"""The door to an organization's settings, its log of acts, and its team."""

from typing import Any
from uuid import UUID

from flask import Blueprint, g

from saas_api.core.access import EmailNotVerified, NotFresh, public, require
from saas_api.core.db import session
from saas_api.core.errors import Forbidden, InvalidOneTimeToken, TooManyRequests
from saas_api.core.http import Answer, client_ip, endpoint, page_of
from saas_api.core.limits import limiter
from saas_api.core.settings import setting
from saas_api.organizations import queries
from saas_api.organizations import service as organizations
from saas_api.organizations.schemas import (
    AuditOut,
    AuditQuery,
    HeirIn,
    InvitationIn,
    InvitationOut,
    InvitationToken,
    MemberAnswer,
    OrganizationAnswer,
    OrganizationChange,
    RoleIn,
    TeamOut,
)

bp = Blueprint("organizations", __name__)


def _caller() -> str:
    return str(g.principal.organization_id)


def _was_sent(response: Any) -> bool:
    return bool(response.status_code == 201)


@bp.get("/organization")
@require("organization:read")
@endpoint(operation_id="get_organization", tag="organizations", returns=OrganizationAnswer())
def show() -> Any:
    """Show the organization."""
    return {"organization": organizations.get(session(), g.principal.organization_id)}


@bp.patch("/organization")
@require("organization:write")
@endpoint(
    operation_id="update_organization", tag="organizations", body=OrganizationChange(), returns=OrganizationAnswer()
)
def change(body: dict[str, Any]) -> Any:
    """Change the organization's name, billing e-mail or time zone; a zone acts from the next billing period."""
    return {"organization": organizations.change(session(), g.principal, body)}


@bp.get("/organization/audit-log")
@require("audit:read")
@endpoint(
    operation_id="list_audit_events", tag="organizations", query=AuditQuery(), returns=page_of("entries", AuditOut())
)
def list_audit(query: dict[str, Any]) -> Any:
    """List who did what, newest first; dates are days in the organization's time zone."""
    organization = organizations.get(session(), g.principal.organization_id)
    return queries.list_audit(session(), organization, query)


@bp.get("/team/members")
@require("members:read")
@endpoint(operation_id="list_members", tag="organizations", returns=TeamOut())
def list_members() -> Any:
    """List the members, and the invitations nobody has answered."""
    return _team()


@bp.post("/team/invite")
@require("members:write")
@limiter.shared_limit("50 per day", scope="invitations", key_func=_caller, deduct_when=_was_sent)
@endpoint(
    operation_id="create_invitation",
    tag="organizations",
    body=InvitationIn(),
    returns=InvitationOut(),
    status=201,
    errors=(
        organizations.UserExists,
        organizations.InvitationExists,
        EmailNotVerified,
        Forbidden,
        TooManyRequests,
    ),
)
def invite(body: dict[str, Any]) -> Any:
    """Invite somebody by mail; to send it again, cancel the invitation and invite anew."""
    return Answer(organizations.invite(session(), g.principal, **body), message="Invited.")


@bp.post("/team/decline-invitation")
@public
@limiter.limit(lambda: f"{20 * setting('AUTH_ALLOWANCE_FACTOR')} per 5 minutes", key_func=client_ip)
@endpoint(
    operation_id="decline_invitation",
    tag="organizations",
    body=InvitationToken(),
    errors=(InvalidOneTimeToken, TooManyRequests),
)
def decline(body: dict[str, Any]) -> Any:
    """Decline an invitation with the token of its link."""
    organizations.decline(body["token"])
    return Answer({}, message="Declined.")


@bp.delete('/team/invitations/<id("ivt"):invitation_id>')
@require("members:write")
@endpoint(operation_id="revoke_invitation", tag="organizations", errors=(organizations.NoSuchInvitation,))
def cancel(invitation_id: UUID) -> Any:
    """Cancel an invitation: its link leads nowhere."""
    organizations.cancel(session(), g.principal, invitation_id)
    return Answer({}, message="Canceled.")


@bp.put('/team/members/<id("usr"):user_id>/role')
@require("members:promote")
@endpoint(
    operation_id="change_member_role",
    tag="organizations",
    body=RoleIn(),
    returns=MemberAnswer(),
    errors=(organizations.NoSuchMember, organizations.LastOwner),
)
def change_role(user_id: UUID, body: dict[str, Any]) -> Any:
    """Give a member another role; it acts on their next request."""
    return {"user": organizations.change_role(session(), g.principal, user_id, body["role"])}


@bp.post("/team/transfer-ownership")
@require("members:promote")
@endpoint(
    operation_id="transfer_ownership",
    tag="organizations",
    body=HeirIn(),
    returns=TeamOut(),
    errors=(NotFresh, organizations.NoSuchMember),
)
def transfer(body: dict[str, Any]) -> Any:
    """Make another member the owner; you become an admin."""
    organizations.transfer(session(), g.principal, body["user_id"])
    return Answer(_team(), message="Transferred.")


@bp.delete('/team/members/<id("usr"):user_id>')
@require("members:write")
@endpoint(
    operation_id="remove_member",
    tag="organizations",
    errors=(organizations.CannotRemoveSelf, organizations.NoSuchMember, organizations.LastOwner),
)
def remove(user_id: UUID) -> Any:
    """Remove a member: their tokens are refused on the next request."""
    organizations.remove(session(), g.principal, user_id)
    return Answer({}, message="Removed.")


def _team() -> queries.Team:
    return queries.team(session(), g.principal.organization_id)
