"""What an operator does to an organization: suspend, resume, limits, and looking at it as a viewer."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import Response, current_app, g, make_response, request

from saas_api.admin import service
from saas_api.admin.queries.reading import reading
from saas_api.admin.queries.tenants import detail as details
from saas_api.admin.routes.organizations.pages import bp
from saas_api.admin.schemas.lists import ReasonForm
from saas_api.admin.schemas.organizations import LimitsForm, NamedForm, end_of, last_day_before
from saas_api.billing import service as billing
from saas_api.billing.queries import catalogue
from saas_api.core.access import operator, public
from saas_api.core.errors import Invalid
from saas_api.core.fields import QueryInt
from saas_api.core.ids import wire_id
from saas_api.core.render import Form, page, see_other, submits
from saas_api.organizations.models import Organization

LOOKING, LOOKING_SECONDS = "looking", 3600
_ONE = '/admin/organizations/<id("org"):organization_id>'


@bp.get(f"{_ONE}/suspend")
@operator("admin")
def suspending(organization_id: UUID, form: Form | None = None) -> Response:
    """Ask for the name and the reason."""
    return _ask("suspend", organization_id, form)


@bp.post(f"{_ONE}/suspend")
@operator("admin")
@submits(NamedForm(), again=suspending, is_fresh=True)
def suspend(organization_id: UUID, body: dict[str, Any]) -> Any:
    """Refuse its keys from the next request on."""
    organization = check_name(organization_id, body["name"])
    service.suspend(g.principal, organization_id, body["reason"])
    told = f"{organization.name} is suspended. Its API keys are refused from now on."
    return see_other(".show", _notice=told, organization_id=organization_id)


@bp.get(f"{_ONE}/resume")
@operator("admin")
def resuming(organization_id: UUID, form: Form | None = None) -> Response:
    """Ask for the reason."""
    return _ask("resume", organization_id, form)


@bp.post(f"{_ONE}/resume")
@operator("admin")
@submits(ReasonForm(), again=resuming, is_fresh=True)
def resume(organization_id: UUID, body: dict[str, Any]) -> Any:
    """Let its keys work again."""
    service.resume(g.principal, organization_id, body["reason"])
    return see_other(".show", _notice="The suspension is lifted.", organization_id=organization_id)


@bp.get(f"{_ONE}/limits")
@operator("admin")
def limiting(organization_id: UUID, form: Form | None = None) -> Response:
    """Show what holds instead of the plan's limits."""
    with reading() as session:
        organization = details.get(session, organization_id)
        held = billing.exceptions_of(session, organization_id)
        units = catalogue.units(session)
    return page(
        "admin/organizations/limits.html",
        organization=organization,
        held=held,
        units=units,
        form=form or Form(_typed(held)),
    )


@bp.post(f"{_ONE}/limits")
@operator("admin")
@submits(LimitsForm(), again=limiting, is_fresh=True)
def set_limits(organization_id: UUID, body: dict[str, Any]) -> Any:
    """Make exceptions, or take them back."""
    exceptions = billing.Exceptions(body["rate_limit"], _ceilings(), end_of(body["expires_on"]))
    service.set_limits(g.principal, organization_id, exceptions, body["reason"])
    told = "The plan's limits hold again." if exceptions.is_empty else "The limits hold from the next request on."
    return see_other(".show", _notice=told, organization_id=organization_id)


@bp.get(f"{_ONE}/view-as")
@operator("admin")
def viewing(organization_id: UUID, form: Form | None = None) -> Response:
    """Ask why an operator looks at it."""
    return _ask("view-as", organization_id, form)


@bp.post(f"{_ONE}/view-as")
@operator("admin")
@submits(ReasonForm(), again=viewing, is_fresh=True)
def view(organization_id: UUID, body: dict[str, Any]) -> Response:
    """Show its dashboard for an hour, as a viewer sees it."""
    token = service.look(g.principal, organization_id, body["reason"])
    response = make_response(see_other("/dashboard"))
    is_secure = current_app.config["JWT_COOKIE_SECURE"]
    response.set_cookie(
        LOOKING, token, max_age=LOOKING_SECONDS, path="/", httponly=True, samesite="Lax", secure=is_secure
    )
    return response


@bp.post("/admin/looking/end")
@public
def stop_looking() -> Any:
    """Stop looking: whoever sends this ends nothing but a view of their own."""
    token = request.cookies.get(LOOKING, "")
    organization_id = service.stop_looking(token) if token else None
    path = f"/admin/organizations/{wire_id('org', organization_id)}" if organization_id else "/admin/organizations"
    response = make_response(see_other(path, _notice="You no longer view an organization."))
    response.delete_cookie(LOOKING, path="/", httponly=True, samesite="Lax")
    return response


def check_name(organization_id: UUID, typed: str) -> Organization:
    """The organization whose name was typed.

    raises: NotFound, Invalid
    """
    with reading() as session:
        organization = details.get(session, organization_id)
    if typed.strip() != organization.name:
        raise Invalid.at("name", f"Type the name as it is: {organization.name}")
    return organization


def _ask(act: str, organization_id: UUID, form: Form | None) -> Response:
    with reading() as session:
        organization = details.get(session, organization_id)
    return page("admin/organizations/act.html", organization=organization, act=act, form=form or Form())


def _ceilings() -> dict[str, Decimal]:
    """What was typed for the meters.

    raises: Invalid
    """
    with reading() as session:
        meters = catalogue.units(session)
    found, wrong = {}, []
    for meter in meters:
        typed = request.form.get(f"ceiling_{meter}", "").strip()
        try:
            if typed:
                found[meter] = Decimal(QueryInt().deserialize(typed))
        except ma.ValidationError:
            wrong.append((f"ceiling_{meter}", "Not a whole number up to 999,999,999."))
    if wrong:
        raise Invalid.fields(wrong)
    return found


def _typed(held: billing.Exceptions) -> dict[str, Any]:
    last = last_day_before(held.expires_at).isoformat() if held.expires_at else None
    ceilings = {f"ceiling_{meter}": f"{limit.normalize():f}" for meter, limit in held.ceilings.items()}
    return {"rate_limit": held.rate_limit, "expires_on": last, **ceilings}
