"""The team page: members, roles, invitations, transfer of ownership."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g
from marshmallow import fields, validate
from sqlalchemy.orm import Session

from saas_api.accounts import invitations, members, organizations, sessions, throttles
from saas_api.accounts.invitations import InvitationNotFound
from saas_api.accounts.members import Member, MemberNotFound
from saas_api.accounts.models import Invitation
from saas_api.accounts.schemas import InvitationIn, MemberRoleIn, TransferOwnershipIn
from saas_api.accounts.tokens import TokenAudience
from saas_api.api_keys import keys
from saas_api.core import ids
from saas_api.core.access import PERMISSIONS, require_permission
from saas_api.core.db import engine
from saas_api.core.fields import Email, PrefixedId
from saas_api.core.roles import ASSIGNABLE_ROLES, ROLES, MemberRole
from saas_api.core.web import pages, templating
from saas_api.core.web.forms import EmptyForm, Form, form_view
from saas_api.dashboard import context
from saas_api.dashboard.context import ConfirmationForm

bp = Blueprint("team", __name__)


ROLE_DESCRIPTIONS = {
    MemberRole.OWNER: "Full access, including transfer of ownership. Each organization has exactly one owner.",
    MemberRole.ADMIN: "Full access, except payments, plan changes, role changes and closing the organization.",
    MemberRole.MEMBER: "Creates API keys, sends test messages, cancels messages. Views everything but the audit log.",
    MemberRole.BILLING: "Pays invoices, changes the plan and the spend cap. Views everything but the audit log.",
    MemberRole.VIEWER: "Views everything but the audit log. Can't change anything.",
}
PERMISSION_DESCRIPTIONS = {
    "organization:read": "View the organization",
    "members:read": "View members",
    "keys:read": "View API keys, masked",
    "billing:read": "View invoices, usage costs and the plan",
    "webhooks:read": "View webhook deliveries and events",
    "messages:read": "View messages",
    "usage:read": "View usage",
    "messages:write": "Send live messages",
    "keys:create": "Create API keys",
    "messages:test": "Send test messages",
    "messages:cancel": "Cancel queued messages",
    "keys:write": "Edit, rotate and revoke API keys",
    "audit:read": "View the audit log",
    "organization:write": "Change the organization's settings",
    "webhooks:write": "Manage webhook endpoints, resend deliveries and replay events",
    "members:write": "Invite and remove members",
    "spend-cap:write": "Change the spend cap and alerts",
    "billing:write": "Pay invoices and change the plan",
    "members:promote": "Change roles and transfer ownership",
    "organization:close": "Close the organization",
}
INVITATION_SENT_NOTICE = "Invitation sent to {}. The link is valid for 7 days."


def get_invitation(session: Session, organization_id: UUID, invitation_id: UUID) -> Invitation:
    """Returns an invitation in any status.

    raises: InvitationNotFound
    """
    invitation = session.get(Invitation, (organization_id, invitation_id))
    if invitation is None:
        raise InvitationNotFound
    return invitation


class InvitationForm(InvitationIn):
    """Email address and role of an invitation."""

    email = Email(required=True, error_messages={"required": "Enter an email address."})


class RemoveMemberForm(ConfirmationForm):
    """The text typed to confirm, and what happens to the keys that the member created."""

    keys = fields.String(load_default="revoke", validate=validate.OneOf(("revoke", "hand_over")))


class TransferOwnershipForm(TransferOwnershipIn, ConfirmationForm):
    """The new owner, and the organization's name typed to confirm."""

    user_id = PrefixedId("usr", required=True, error_messages={"required": "Choose a member."})


@bp.get('/team/members/<id("usr"):user_id>/role')
@require_permission("members:promote")
def change_role_form(user_id: UUID, form: Form | None = None) -> Response:
    """Show the form that changes a member's role."""
    member = _member(user_id)
    return pages.render_page(
        "dashboard/team/role.html",
        member=member,
        form=form or Form({"role": member.role}),
        roles=[(role, role.capitalize(), ROLE_DESCRIPTIONS[role]) for role in ASSIGNABLE_ROLES],
    )


@bp.post('/team/members/<id("usr"):user_id>/role')
@require_permission("members:promote")
@form_view(MemberRoleIn(), form=change_role_form)
def change_role(user_id: UUID, body: dict[str, Any]) -> Any:
    """Change a member's role; it applies to their next request."""
    member = members.change_role(engine.session(), g.principal, user_id, body["role"])
    notice = f"Role of {member.display_name} changed to {member.role.capitalize()}."
    return pages.redirect_to("dashboard.team.index", _notice=notice)


@bp.get('/team/members/<id("usr"):user_id>/remove')
@require_permission("members:write")
def remove_form(user_id: UUID, form: Form | None = None) -> Response:
    """Show the form that removes a member."""
    return pages.render_page(
        "dashboard/team/remove.html",
        member=_member(user_id),
        keys=keys.list_keys_of_creator(engine.session(), user_id, g.principal.organization_id),
        form=form or Form({"keys": "revoke"}),
    )


@bp.post('/team/members/<id("usr"):user_id>/remove')
@require_permission("members:write")
@form_view(RemoveMemberForm(), form=remove_form)
def remove(user_id: UUID, body: dict[str, Any]) -> Any:
    """Remove a member, and revoke the keys that they created or hand them over to the caller."""
    member = _member(user_id)
    context.check_confirmation(body["typed"], member.email)
    removed = keys.remove_member(engine.session(), g.principal, user_id, revokes_keys=body["keys"] == "revoke")
    notice = f"{member.display_name} was removed."
    if removed.revoked_keys:
        notice += f" Revoked: {templating.pluralize(len(removed.revoked_keys), 'API key')}."
    return pages.redirect_to("dashboard.team.index", _notice=notice)


@bp.get("/team/leave")
@require_permission("members:read")
def leave_form(form: Form | None = None) -> Response:
    """Ask whether to leave the organization."""
    organization = organizations.get_organization(engine.session(), g.principal.organization_id)
    return pages.render_page("dashboard/team/leave.html", organization=organization, form=form or Form())


@bp.post("/team/leave")
@require_permission("members:read")
@form_view(EmptyForm(), form=leave_form)
def leave(body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Leave the organization, and continue in another one."""
    g.tokens = sessions.leave_organization(g.principal, TokenAudience.PAGES).tokens
    return pages.redirect_to("/dashboard", _notice="You have left the organization.")


@bp.get("/team/transfer")
@require_permission("members:promote")
def transfer_form(form: Form | None = None) -> Response:
    """Show the form that transfers the ownership."""
    organization = organizations.get_organization(engine.session(), g.principal.organization_id)
    others = [
        member
        for member in members.get_team(engine.session(), organization.id).members
        if member.user_id != g.principal.id
    ]
    return pages.render_page(
        "dashboard/team/transfer.html",
        organization=organization,
        members=[
            (ids.format_id("usr", member.user_id), f"{member.display_name} ({member.email}), {member.role}")
            for member in others
        ],
        form=form or Form(),
    )


@bp.post("/team/transfer")
@require_permission("members:promote")
@form_view(TransferOwnershipForm(), form=transfer_form)
def transfer_ownership(body: dict[str, Any]) -> Any:
    """Transfer the ownership; the previous owner becomes an admin."""
    organization = organizations.get_organization(engine.session(), g.principal.organization_id)
    context.check_confirmation(body["typed"], organization.name)
    members.transfer_ownership(engine.session(), g.principal, body["user_id"])
    member = _member(body["user_id"])
    notice = f"{member.display_name} is now the owner of {organization.name}. You are an admin."
    return pages.redirect_to("dashboard.team.index", _notice=notice)


def _member(user_id: UUID) -> Member:
    member = members.find_member(engine.session(), g.principal.organization_id, user_id)
    if member is None:
        raise MemberNotFound
    return member


@bp.get("/team")
@require_permission("members:read")
def index(form: Form | None = None) -> Response:
    """Show members, pending invitations and the permissions of each role."""
    organization = organizations.get_organization(engine.session(), g.principal.organization_id)
    team = members.get_team(engine.session(), organization.id)
    return pages.render_page(
        "dashboard/team/index.html",
        members=team.members,
        invitations=team.pending_invitations,
        last_seen=sessions.get_last_seen([member.user_id for member in team.members]),
        called={member.user_id: member.display_name for member in team.members},
        zone=organization.timezone,
        form=form,
        roles=ROLES,
        about_roles=ROLE_DESCRIPTIONS,
        permissions=[
            (text, _in_order(PERMISSIONS[name])) for name, text in PERMISSION_DESCRIPTIONS.items() if PERMISSIONS[name]
        ],
    )


def _in_order(roles: frozenset[str]) -> list[str]:
    return [role for role in ROLES if role in roles]


@bp.get("/team/invite")
@require_permission("members:write")
def invite_form(form: Form | None = None) -> Response:
    """Show the invitation form."""
    return pages.render_page(
        "dashboard/team/invite.html",
        form=form or Form({"role": "member"}),
        roles=[(role, role.capitalize(), ROLE_DESCRIPTIONS[role]) for role in ASSIGNABLE_ROLES],
    )


@bp.post("/team/invite")
@require_permission("members:write")
@throttles.limit_invitations(sent_status=303)
@form_view(InvitationForm(), form=invite_form, is_idempotent=True)
def invite(body: dict[str, Any]) -> Any:
    """Invite a user by mail."""
    invitation = invitations.create_invitation(engine.session(), g.principal, **body)
    return pages.redirect_to("dashboard.team.index", _notice=INVITATION_SENT_NOTICE.format(invitation.email))


@bp.post('/team/invitations/<id("ivt"):invitation_id>/cancel')
@require_permission("members:write")
@form_view(EmptyForm(), form=lambda invitation_id, form: index(form))  # noqa: ARG005 - the address has it
def cancel_invitation(invitation_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Revoke an invitation; its link stops working."""
    invitations.revoke_invitation(engine.session(), g.principal, invitation_id)
    return pages.redirect_to("dashboard.team.index", _notice="Invitation canceled. Its link no longer works.")


@bp.post('/team/invitations/<id("ivt"):invitation_id>/resend')
@require_permission("members:write")
@throttles.limit_invitations(sent_status=303)
@form_view(EmptyForm(), form=lambda invitation_id, form: index(form), is_idempotent=True)  # noqa: ARG005 - the address has it
def resend_invitation(invitation_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Replace an invitation by a new one; the previous link stops working."""
    invitation = invitations.resend_invitation(engine.session(), g.principal, invitation_id)
    return pages.redirect_to("dashboard.team.index", _notice=INVITATION_SENT_NOTICE.format(invitation.email))
