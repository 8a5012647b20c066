"""What an operator does to an organization's money: another plan, credit, and billing at this moment."""

from typing import Any
from uuid import UUID

from flask import Response, g

from saas_api.admin import service
from saas_api.admin.queries.reading import reading
from saas_api.admin.queries.tenants import detail as details
from saas_api.admin.routes.organizations.acts import check_name
from saas_api.admin.routes.organizations.pages import bp
from saas_api.admin.schemas.organizations import GrantForm, NamedForm, PlanForm, PlanQuery, end_of
from saas_api.billing.models import BillingProfile
from saas_api.billing.queries import catalogue
from saas_api.core.access import operator
from saas_api.core.errors import ApiError, Invalid, NotFound
from saas_api.core.money import text_to_minor
from saas_api.core.render import Form, page, see_other, submits
from saas_api.core.render.filters import day, money, plural
from saas_api.core.render.lists import read_filters

_ONE = '/admin/organizations/<id("org"):organization_id>'


@bp.get(f"{_ONE}/plan")
@operator("admin")
def choosing(organization_id: UUID, form: Form | None = None) -> Response:
    """Choose a plan, then see what the change would do to the running bill."""
    query, chosen = read_filters(PlanQuery())
    if form is not None:
        chosen = Form({name: form.value(name) for name in ("plan", "when")})
    with reading() as session:
        organization = details.get(session, organization_id)
        choices = catalogue.choices(session)
    change = _change(organization_id, chosen)
    return page(
        "admin/organizations/plan.html",
        status=422 if chosen.errors else 200,
        organization=organization,
        choices=choices,
        chosen=chosen,
        change=change,
        form=form or Form({name: value for name, value in query.items() if value}),
    )


@bp.post(f"{_ONE}/plan")
@operator("admin")
@submits(PlanForm(), again=choosing, is_once=True, is_fresh=True)
def change_plan(organization_id: UUID, body: dict[str, Any]) -> Any:
    """Put it on another plan."""
    change = service.change_plan(g.principal, organization_id, body["plan"], body["when"], body["reason"])
    told = f"On {change.version.name} from {day(change.effective_at)} on (UTC)."
    return see_other(".show", _notice=told, organization_id=organization_id)


@bp.get(f"{_ONE}/credit")
@operator("admin")
def crediting(organization_id: UUID, form: Form | None = None) -> Response:
    """Ask how much and why."""
    with reading() as session:
        organization = details.get(session, organization_id)
        profile = session.get(BillingProfile, organization_id)
    currency = profile.currency if profile else "USD"
    return page("admin/organizations/credit.html", organization=organization, currency=currency, form=form or Form())


@bp.post(f"{_ONE}/credit")
@operator("admin")
@submits(GrantForm(), again=crediting, is_once=True, is_fresh=True)
def credit(organization_id: UUID, body: dict[str, Any]) -> Any:
    """Put money into its wallet."""
    with reading() as session:
        details.get(session, organization_id)
        profile = session.get(BillingProfile, organization_id)
    currency = profile.currency if profile else "USD"
    try:
        minor = text_to_minor(f"{body['amount']:f}", currency)
    except ValueError as cause:
        raise Invalid.at("amount", f"Finer than {currency} has decimals.") from cause
    service.grant(g.principal, organization_id, minor, body["reason"], end_of(body["expires_on"]))
    told = f"{money(minor, currency)} added. The next invoices use it up."
    return see_other(".show", _notice=told, organization_id=organization_id)


@bp.get(f"{_ONE}/bill-now")
@operator("admin")
def billing_now(organization_id: UUID, form: Form | None = None) -> Response:
    """Show what billing at this moment would charge; nothing is written."""
    with reading() as session:
        organization = details.get(session, organization_id)
    looked = service.look_at_bill(organization_id)
    return page("admin/organizations/bill_now.html", organization=organization, looked=looked, form=form or Form())


@bp.post(f"{_ONE}/bill-now")
@operator("admin")
@submits(NamedForm(), again=billing_now, is_once=True, is_fresh=True)
def bill_now(organization_id: UUID, body: dict[str, Any]) -> Any:
    """End the running period and invoice it."""
    check_name(organization_id, body["name"])
    outcome = service.bill_now(g.principal, organization_id, body["reason"])
    written = [f"{one.number or 'a draft'}, {money(one.total_minor, one.currency)}" for one in outcome.invoices]
    told = f"{plural(outcome.closed, 'period')} closed. Written: {'; '.join(written) or 'nothing'}."
    return see_other(".show", _notice=told, organization_id=organization_id)


def _change(organization_id: UUID, chosen: Form) -> Any:
    plan = chosen.value("plan")
    if not plan or chosen.errors:
        return None
    try:
        return service.look_at_change(organization_id, plan, chosen.value("when") or None)
    except NotFound:
        raise
    except ApiError as error:
        chosen.errors["plan"] = error.message
        return None
