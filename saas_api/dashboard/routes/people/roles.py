"""Pages that change who may do what: another role, a removal, another owner."""

from typing import Any
from uuid import UUID

from flask import Response, g

from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.core.ids import wire_id
from saas_api.core.render import Form, page, see_other, submits
from saas_api.dashboard.routes.people.team import bp
from saas_api.dashboard.schemas.people import ABOUT_ROLES, GIVEN_ROLES, RemovalForm, RoleForm, TransferForm
from saas_api.organizations import queries
from saas_api.organizations import service as organizations


@bp.get('/team/members/<id("usr"):user_id>/role')
@require("members:promote")
def ask_role(user_id: UUID, form: Form | None = None) -> Response:
    """Show the form that gives a member another role."""
    member = _member(user_id)
    return page(
        "dashboard/people/role.html",
        member=member,
        form=form or Form({"role": member.role}),
        roles=[(role, role.capitalize(), ABOUT_ROLES[role]) for role in GIVEN_ROLES],
    )


@bp.post('/team/members/<id("usr"):user_id>/role')
@require("members:promote")
@submits(RoleForm(), again=ask_role, is_fresh=True)
def change_role(user_id: UUID, body: dict[str, Any]) -> Any:
    """Give a member another role; it acts on their next click."""
    member = organizations.change_role(session(), g.principal, user_id, body["role"])
    return see_other("dashboard.people.team", _notice=f"{member.called} is {member.role} now.")


@bp.get('/team/members/<id("usr"):user_id>/remove')
@require("members:write")
def ask_remove(user_id: UUID, form: Form | None = None) -> Response:
    """Show what removing a member means."""
    return page("dashboard/people/remove.html", member=_member(user_id), form=form or Form())


@bp.post('/team/members/<id("usr"):user_id>/remove')
@require("members:write")
@submits(RemovalForm(), again=ask_remove)
def remove(user_id: UUID, body: dict[str, Any]) -> Any:
    """Put a member out."""
    member = _member(user_id)
    _check_typed(body["typed"], member.email)
    organizations.remove(session(), g.principal, user_id)
    return see_other("dashboard.people.team", _notice=f"{member.called} was removed.")


@bp.get("/team/transfer")
@require("members:promote")
def ask_transfer(form: Form | None = None) -> Response:
    """Show the form that makes somebody else the owner."""
    organization = organizations.get(session(), g.principal.organization_id)
    others = [one for one in queries.team(session(), organization.id).members if one.user_id != g.principal.id]
    return page(
        "dashboard/people/transfer.html",
        organization=organization,
        members=[(wire_id("usr", one.user_id), f"{one.called} ({one.email}), {one.role}") for one in others],
        form=form or Form(),
    )


@bp.post("/team/transfer")
@require("members:promote")
@submits(TransferForm(), again=ask_transfer, is_fresh=True)
def transfer(body: dict[str, Any]) -> Any:
    """Make another member the owner; whoever was becomes an admin."""
    organization = organizations.get(session(), g.principal.organization_id)
    _check_typed(body["typed"], organization.name)
    organizations.transfer(session(), g.principal, body["user_id"])
    member = _member(body["user_id"])
    notice = f"{member.called} owns {organization.name} now. You are an admin."
    return see_other("dashboard.people.team", _notice=notice)


def _member(user_id: UUID) -> queries.Member:
    found = queries.find_member(session(), g.principal.organization_id, user_id)
    if found is None:
        raise organizations.NoSuchMember
    return found


def _check_typed(typed: str, wanted: str) -> None:
    if typed.strip().casefold() != wanted.strip().casefold():
        raise Invalid.at("typed", f"Type {wanted} to confirm.")
