"""Pages of the team: who belongs to the organization, who was asked to, and asking somebody."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g

from saas_api.auth import service as auth
from saas_api.core.access import PERMISSIONS, require
from saas_api.core.db import session
from saas_api.core.limits import limiter
from saas_api.core.render import Form, page, see_other, submits
from saas_api.core.roles import ROLES
from saas_api.dashboard.queries import people as reads
from saas_api.dashboard.schemas.people import ABOUT_PERMISSIONS, ABOUT_ROLES, GIVEN_ROLES, InvitationForm, NothingForm
from saas_api.organizations import queries
from saas_api.organizations import service as organizations

bp = Blueprint("people", __name__)
SENT = "The invitation is on its way to {}. Its link works for 7 days."


def _caller() -> str:
    return str(g.principal.organization_id)


def _was_sent(response: Response) -> bool:
    return response.status_code == 303


@bp.get("/team")
@require("members:read")
def team(form: Form | None = None) -> Response:
    """Show the members, open invitations, and what each role may do."""
    organization = organizations.get(session(), g.principal.organization_id)
    found = queries.team(session(), organization.id)
    return page(
        "dashboard/people/team.html",
        members=found.members,
        invitations=found.pending_invitations,
        seen=auth.last_seen([member.user_id for member in found.members]),
        called={member.user_id: member.called for member in found.members},
        zone=organization.timezone,
        form=form,
        roles=ROLES,
        about_roles=ABOUT_ROLES,
        permissions=[
            (text, _in_order(PERMISSIONS[name])) for name, text in ABOUT_PERMISSIONS.items() if PERMISSIONS[name]
        ],
    )


def _in_order(roles: frozenset[str]) -> list[str]:
    return [role for role in ROLES if role in roles]


@bp.get("/team/invite")
@require("members:write")
def ask_invite(form: Form | None = None) -> Response:
    """Show the form that invites somebody."""
    return page(
        "dashboard/people/invite.html",
        form=form or Form({"role": "member"}),
        roles=[(role, role.capitalize(), ABOUT_ROLES[role]) for role in GIVEN_ROLES],
    )


@bp.post("/team/invite")
@require("members:write")
@limiter.shared_limit("50 per day", scope="invitations", key_func=_caller, deduct_when=_was_sent)
@submits(InvitationForm(), again=ask_invite, is_once=True)
def invite(body: dict[str, Any]) -> Any:
    """Invite somebody by mail."""
    made = organizations.invite(session(), g.principal, **body)
    return see_other("dashboard.people.team", _notice=SENT.format(made.email))


@bp.post('/team/invitations/<id("ivt"):invitation_id>/cancel')
@require("members:write")
@submits(NothingForm(), again=lambda invitation_id, form: team(form))  # noqa: ARG005 - the address has it
def cancel(invitation_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Cancel an invitation: its link leads nowhere."""
    organizations.cancel(session(), g.principal, invitation_id)
    return see_other("dashboard.people.team", _notice="The invitation was canceled. Its link leads nowhere.")


@bp.post('/team/invitations/<id("ivt"):invitation_id>/resend')
@require("members:write")
@limiter.shared_limit("50 per day", scope="invitations", key_func=_caller, deduct_when=_was_sent)
@submits(NothingForm(), again=lambda invitation_id, form: team(form), is_once=True)  # noqa: ARG005 - the address has it
def resend(invitation_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Send an invitation anew: the link of the one before leads nowhere."""
    old = reads.invitation(session(), g.principal.organization_id, invitation_id)
    email, role = old.email, old.role
    organizations.cancel(session(), g.principal, invitation_id)
    organizations.invite(session(), g.principal, email, role)
    return see_other("dashboard.people.team", _notice=SENT.format(email))
