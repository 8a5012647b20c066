"""Pages of settings: the organization's, and a person's own account."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g, request

from saas_api.auth import service as auth
from saas_api.billing import service as billing
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import Forbidden
from saas_api.core.limits import limiter
from saas_api.core.render import Form, page, see_other, submits
from saas_api.dashboard.schemas.people import NothingForm, OrganizationForm, PasswordForm, PersonForm, zones
from saas_api.organizations import service as organizations

bp = Blueprint("settings", __name__)
SESSIONS = 50


def _caller() -> str:
    return str(g.principal.id)


def _is_refused(response: Response) -> bool:
    return response.status_code == 401


@bp.get("/settings")
@require("organization:read")
def organization(form: Form | None = None) -> Response:
    """Show the organization's settings, and how its invoices name it."""
    found = organizations.get(session(), g.principal.organization_id)
    buyer = billing.buyer_of(session(), found.id)
    kept = {
        "name": found.name,
        "billing_email": found.billing_email,
        "timezone": found.timezone,
        "legal_name": buyer.name,
        "address": "\n".join(buyer.address),
        "tax_id": buyer.tax_id,
    }
    listed = zones() if found.timezone in zones() else [found.timezone, *zones()]
    return page(
        "dashboard/settings/organization.html",
        organization=found,
        buyer=buyer,
        zones=[(name, name) for name in listed],
        form=form or Form(kept),
    )


@bp.post("/settings")
@require("organization:write")
@submits(OrganizationForm(), again=organization)
def change(body: dict[str, Any]) -> Any:
    """Change the organization's settings."""
    own = {name: body[name] for name in ("name", "billing_email", "timezone")}
    organizations.change(session(), g.principal, own)
    billing.set_buyer(session(), g.principal, billing.Buyer(body["legal_name"], body["address"], body["tax_id"]))
    return see_other("dashboard.settings.organization", _notice="Saved.")


@bp.get("/account")
@require(None)
def account(form: Form | None = None) -> Response:
    """Show a person's name, address and sessions."""
    known = auth.profile(g.principal)
    sessions = auth.list_sessions(g.principal, {"limit": SESSIONS, "cursor": None}).items
    return page(
        "dashboard/account/account.html",
        user=known.user,
        sessions=sessions,
        current=g.principal.session_id,
        zone=known.organization.timezone,
        form=form or Form({"full_name": known.user.full_name}),
        look=Form({"theme": "system", "shortcuts": "on", **request.cookies}),
    )


@bp.post("/account")
@require(None)
@submits(PersonForm(), again=account)
def rename(body: dict[str, Any]) -> Any:
    """Change the name a person goes by."""
    auth.rename(g.principal, body["full_name"])
    return see_other("dashboard.settings.account", _notice="Saved.")


@bp.get("/account/password")
@require(None)
def ask_password(form: Form | None = None) -> Response:
    """Show the form for another password."""
    return page("dashboard/account/password.html", form=form or Form())


@bp.post("/account/password")
@require(None)
@limiter.shared_limit("10 per 15 minutes", scope="password", key_func=_caller, deduct_when=_is_refused)
@submits(PasswordForm(), again=ask_password)
def change_password(body: dict[str, Any]) -> Any:
    """Change a person's password; their other sessions end."""
    auth.change_password(g.principal, **body)
    notice = "The password was changed. Your other sessions have ended."
    return see_other("dashboard.settings.account", _notice=notice)


@bp.post("/account/verification")
@require(None)
@limiter.shared_limit("3 per hour", scope="verification", key_func=_caller)
@submits(NothingForm(), again=account)
def verify(body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """Send the link that verifies an address again."""
    auth.request_verification(g.principal)
    return see_other("dashboard.settings.account", _notice="A new link is on its way. Older ones lead nowhere.")


@bp.post('/account/sessions/<id("ses"):session_id>/end')
@require(None)
@submits(NothingForm(), again=lambda session_id, form: account(form))  # noqa: ARG005 - the address has it
def end_session(session_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """End one other session of a person's."""
    if session_id == g.principal.session_id:
        raise Forbidden("This is the session you are in; sign out to end it.")
    auth.revoke(g.principal, session_id)
    return see_other("dashboard.settings.account", _notice="The session has ended.")


@bp.post("/account/sessions/end-others")
@require(None)
@submits(NothingForm(), again=account)
def end_others(body: dict[str, Any]) -> Any:  # noqa: ARG001 - the form has no fields
    """End every session of a person's but this one."""
    count = auth.revoke_others(g.principal)
    return see_other("dashboard.settings.account", _notice=f"Other sessions that have ended: {count}.")
