"""The action table and its one GET/POST pair; forms of actions."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import marshmallow as ma
from flask import Blueprint, Response, g, request
from marshmallow import fields, validate

from saas_api.accounts.models import Organization
from saas_api.admin import context, organization_actions, organizations
from saas_api.admin.context import ReasonForm
from saas_api.billing import invoice_lifecycle, invoices, plans, terms
from saas_api.billing.models import BillingProfile
from saas_api.billing.terms import LimitOverrides
from saas_api.core import ids, money
from saas_api.core.access import public_view, require_operator
from saas_api.core.errors import ApiError, NotFound, ValidationFailed
from saas_api.core.fields import DateField, MoneyAmount, QueryInteger, StrictSchema, Text
from saas_api.core.web import forms, pages, templating
from saas_api.core.web.forms import Form, form_view
from saas_api.payments import reconciliation

bp = Blueprint("actions", __name__)


@dataclass(frozen=True)
class Action:
    """One act, as its page shows it.

    text: what follows from it
    done: said afterwards
    kind: of its button, "primary" or "bad"
    """

    title: str
    consequence: str
    button: str
    success_message: str
    call: Callable[..., Any]
    button_style: str = "primary"


INVOICE_ACTIONS = {
    "finalize": Action(
        "Finalize the draft",
        "The invoice gets its number and its due date, is frozen, and is sent to the organization. "
        "What is in its wallet is used first.",
        "Finalize",
        "The invoice is final.",
        invoice_lifecycle.finalize_invoice,
    ),
    "redo": Action(
        "Work the draft out anew",
        "Every line is worked out again from the ledger and the prices. The draft stays a draft.",
        "Work it out anew",
        "The draft was worked out anew.",
        invoice_lifecycle.recalculate_draft,
    ),
    "delete": Action(
        "Delete the draft",
        "The draft is gone and its period is not billed. This cannot be taken back.",
        "Delete the draft",
        "The draft is deleted.",
        invoice_lifecycle.delete_draft,
        "danger",
    ),
    "void": Action(
        "Void the invoice",
        "The invoice is taken back, keeps its number, and is pursued no longer. What the wallet paid of it goes back "
        "into the wallet. This cannot be taken back.",
        "Void the invoice",
        "The invoice is void.",
        invoice_lifecycle.void_invoice,
        "danger",
    ),
    "write-off": Action(
        "Write the invoice off",
        "The invoice counts as uncollectible and is pursued no longer. A payment that still comes is taken.",
        "Write it off",
        "The invoice is written off.",
        invoices.mark_uncollectible,
        "danger",
    ),
}
PAYMENT_ACTIONS = {
    "ask": Action(
        "Ask the provider again",
        "The provider is asked now, and the payment becomes what the answer says: money that it confirms is booked.",
        "Ask the provider",
        "The provider was asked.",
        reconciliation.recheck_payment,
    ),
    "resolve": Action(
        "Resolve the payment",
        "The payment is canceled and nothing is booked. Do this after the money was put right with the provider.",
        "Resolve the payment",
        "Resolved.",
        reconciliation.resolve_payment,
        "danger",
    ),
}
EVENT_ACTIONS = {
    "take-up": Action(
        "Take the event up again",
        "The event is worked off anew: its provider is asked about the payment that it names.",
        "Take it up again",
        "The event is taken up again.",
        reconciliation.retry_event,
    ),
    "resolve": Action(
        "Resolve the event",
        "The event is laid aside as ignored and nothing is booked. Do this after you have understood it.",
        "Resolve the event",
        "The event is resolved.",
        reconciliation.ignore_event,
        "danger",
    ),
}


class PlanChangeQuery(StrictSchema):
    """A plan to look at before it is changed to."""

    plan = Text(maximum=60, load_default=None)
    when = fields.String(load_default=None, validate=validate.OneOf(("now", "period_end")))


class ConfirmByNameForm(ReasonForm):
    """An act that asks for the organization's name besides the reason."""

    name = Text(maximum=200, required=True)


class OperatorChangePlanForm(ReasonForm):
    """Another plan."""

    plan = Text(maximum=60, required=True)
    when = fields.String(load_default=None, validate=validate.OneOf(("now", "period_end")))


class LimitOverridesForm(ReasonForm):
    """Exceptions to the plan; what is empty is the plan's; those of the meters are read besides."""

    rate_limit = QueryInteger(minimum=1, maximum=1_000_000, load_default=None)
    expires_on = DateField(load_default=None)


class GrantCreditForm(ReasonForm):
    """Money for the wallet."""

    amount = MoneyAmount(required=True)
    expires_on = DateField(load_default=None)


def end_of_day(last: date | None) -> datetime | None:
    """The instant in which a day ends, in UTC."""
    return datetime.combine(last, time(), UTC) + timedelta(days=1) if last else None


def last_full_day_before(end: datetime) -> date:
    """The last day, in UTC, that is over when an instant comes."""
    return (end.astimezone(UTC) - timedelta(microseconds=1)).date()


_ONE = '/admin/organizations/<id("org"):organization_id>'


@bp.get(f"{_ONE}/suspend")
@require_operator("admin")
def suspend_form(organization_id: UUID, form: Form | None = None) -> Response:
    """Ask for the name and the reason."""
    return _action_page("suspend", organization_id, form)


@bp.post(f"{_ONE}/suspend")
@require_operator("admin")
@form_view(ConfirmByNameForm(), form=suspend_form, requires_fresh_login=True)
def suspend(organization_id: UUID, body: dict[str, Any]) -> Any:
    """Refuse its keys from the next request on."""
    organization = check_confirmation(organization_id, body["name"])
    organization_actions.suspend(g.principal, organization_id, body["reason"])
    told = f"{organization.name} is suspended. Its API keys are refused from now on."
    return pages.redirect_to("admin.organizations.show", _notice=told, organization_id=organization_id)


@bp.get(f"{_ONE}/resume")
@require_operator("admin")
def resume_form(organization_id: UUID, form: Form | None = None) -> Response:
    """Ask for the reason."""
    return _action_page("resume", organization_id, form)


@bp.post(f"{_ONE}/resume")
@require_operator("admin")
@form_view(ReasonForm(), form=resume_form, requires_fresh_login=True)
def resume(organization_id: UUID, body: dict[str, Any]) -> Any:
    """Let its keys work again."""
    organization_actions.resume(g.principal, organization_id, body["reason"])
    return pages.redirect_to(
        "admin.organizations.show", _notice="The suspension is lifted.", organization_id=organization_id
    )


@bp.get(f"{_ONE}/limits")
@require_operator("admin")
def limits_form(organization_id: UUID, form: Form | None = None) -> Response:
    """Show what holds instead of the plan's limits."""
    with context.read_session() as session:
        organization = organizations.get_organization(session, organization_id)
        held = terms.get_overrides(session, organization_id)
        units = plans.meter_units(session)
    return pages.render_page(
        "admin/organizations/limits.html",
        organization=organization,
        held=held,
        units=units,
        form=form or Form(_submitted_limits(held)),
    )


@bp.post(f"{_ONE}/limits")
@require_operator("admin")
@form_view(LimitOverridesForm(), form=limits_form, requires_fresh_login=True)
def set_limits(organization_id: UUID, body: dict[str, Any]) -> Any:
    """Make exceptions, or take them back."""
    exceptions = LimitOverrides(body["rate_limit"], _meter_limits(), end_of_day(body["expires_on"]))
    organization_actions.set_limit_overrides(g.principal, organization_id, exceptions, body["reason"])
    told = "The plan's limits hold again." if exceptions.is_empty else "The limits hold from the next request on."
    return pages.redirect_to("admin.organizations.show", _notice=told, organization_id=organization_id)


@bp.get(f"{_ONE}/view-as")
@require_operator("admin")
def impersonate_form(organization_id: UUID, form: Form | None = None) -> Response:
    """Ask why an operator looks at it."""
    return _action_page("view-as", organization_id, form)


@bp.post(f"{_ONE}/view-as")
@require_operator("admin")
@form_view(ReasonForm(), form=impersonate_form, requires_fresh_login=True)
def impersonate(organization_id: UUID, body: dict[str, Any]) -> Response:
    """Show its dashboard for an hour, as a viewer sees it."""
    g.impersonation_token = organization_actions.start_impersonation(g.principal, organization_id, body["reason"])
    return pages.redirect_to("/dashboard")


@bp.post("/admin/looking/end")
@public_view
def stop_impersonation() -> Any:
    """Stop looking: whoever sends this ends nothing but a view of their own."""
    token, g.impersonation_token = g.presented_impersonation_token, None
    organization_id = organization_actions.stop_impersonation(token) if token else None
    path = (
        f"/admin/organizations/{ids.format_id('org', organization_id)}" if organization_id else "/admin/organizations"
    )
    return pages.redirect_to(path, _notice="You no longer view an organization.")


def check_confirmation(organization_id: UUID, typed: str) -> Organization:
    """The organization whose name was typed.

    raises: NotFound, Invalid
    """
    with context.read_session() as session:
        organization = organizations.get_organization(session, organization_id)
    if typed.strip() != organization.name:
        raise ValidationFailed.at_field("name", f"Type the name as it is: {organization.name}")
    return organization


def _action_page(act: str, organization_id: UUID, form: Form | None) -> Response:
    with context.read_session() as session:
        organization = organizations.get_organization(session, organization_id)
    return pages.render_page("admin/organizations/act.html", organization=organization, act=act, form=form or Form())


def _meter_limits() -> dict[str, Decimal]:
    """What was typed for the meters.

    raises: Invalid
    """
    with context.read_session() as session:
        meters = plans.meter_units(session)
    found, wrong = {}, []
    for meter in meters:
        typed = request.form.get(f"ceiling_{meter}", "").strip()
        try:
            if typed:
                found[meter] = Decimal(QueryInteger().deserialize(typed))
        except ma.ValidationError:
            wrong.append((f"ceiling_{meter}", "Not a whole number up to 999,999,999."))
    if wrong:
        raise ValidationFailed.from_fields(wrong)
    return found


def _submitted_limits(held: LimitOverrides) -> dict[str, Any]:
    last = last_full_day_before(held.expires_at).isoformat() if held.expires_at else None
    ceilings = {f"ceiling_{meter}": f"{limit.normalize():f}" for meter, limit in held.quotas.items()}
    return {"rate_limit": held.rate_limit, "expires_on": last, **ceilings}


@bp.get(f"{_ONE}/plan")
@require_operator("admin")
def change_plan_form(organization_id: UUID, form: Form | None = None) -> Response:
    """Choose a plan, then see what the change would do to the running bill."""
    query, chosen = forms.parse_filters(PlanChangeQuery())
    if form is not None:
        chosen = Form({name: form.value(name) for name in ("plan", "when")})
    with context.read_session() as session:
        organization = organizations.get_organization(session, organization_id)
        choices = plans.list_selectable_plans(session)
    change = _plan_change(organization_id, chosen)
    return pages.render_page(
        "admin/organizations/plan.html",
        status=422 if chosen.errors else 200,
        organization=organization,
        choices=choices,
        chosen=chosen,
        change=change,
        form=form or Form({name: value for name, value in query.items() if value}),
    )


@bp.post(f"{_ONE}/plan")
@require_operator("admin")
@form_view(OperatorChangePlanForm(), form=change_plan_form, is_idempotent=True, requires_fresh_login=True)
def change_plan(organization_id: UUID, body: dict[str, Any]) -> Any:
    """Put it on another plan."""
    change = organization_actions.change_plan(g.principal, organization_id, body["plan"], body["when"], body["reason"])
    told = f"On {change.version.name} from {templating.format_date(change.effective_at)} on (UTC)."
    return pages.redirect_to("admin.organizations.show", _notice=told, organization_id=organization_id)


@bp.get(f"{_ONE}/credit")
@require_operator("admin")
def credit_form(organization_id: UUID, form: Form | None = None) -> Response:
    """Ask how much and why."""
    with context.read_session() as session:
        organization = organizations.get_organization(session, organization_id)
        profile = session.get(BillingProfile, organization_id)
    currency = profile.currency if profile else "USD"
    return pages.render_page(
        "admin/organizations/credit.html", organization=organization, currency=currency, form=form or Form()
    )


@bp.post(f"{_ONE}/credit")
@require_operator("admin")
@form_view(GrantCreditForm(), form=credit_form, is_idempotent=True, requires_fresh_login=True)
def credit(organization_id: UUID, body: dict[str, Any]) -> Any:
    """Put money into its wallet."""
    with context.read_session() as session:
        organizations.get_organization(session, organization_id)
        profile = session.get(BillingProfile, organization_id)
    currency = profile.currency if profile else "USD"
    try:
        minor = money.parse_minor(f"{body['amount']:f}", currency)
    except ValueError as cause:
        raise ValidationFailed.at_field("amount", f"Finer than {currency} has decimals.") from cause
    organization_actions.grant_credit(
        g.principal, organization_id, minor, body["reason"], end_of_day(body["expires_on"])
    )
    told = f"{templating.format_money(minor, currency)} added. The next invoices use it up."
    return pages.redirect_to("admin.organizations.show", _notice=told, organization_id=organization_id)


@bp.get(f"{_ONE}/bill-now")
@require_operator("admin")
def bill_now_form(organization_id: UUID, form: Form | None = None) -> Response:
    """Show what billing at this moment would charge; nothing is written."""
    with context.read_session() as session:
        organization = organizations.get_organization(session, organization_id)
    looked = organization_actions.preview_bill_now(organization_id)
    return pages.render_page(
        "admin/organizations/bill_now.html", organization=organization, looked=looked, form=form or Form()
    )


@bp.post(f"{_ONE}/bill-now")
@require_operator("admin")
@form_view(ConfirmByNameForm(), form=bill_now_form, is_idempotent=True, requires_fresh_login=True)
def bill_now(organization_id: UUID, body: dict[str, Any]) -> Any:
    """End the running period and invoice it."""
    check_confirmation(organization_id, body["name"])
    outcome = organization_actions.bill_now(g.principal, organization_id, body["reason"])
    written = [
        f"{one.number or 'a draft'}, {templating.format_money(one.total_minor, one.currency)}"
        for one in outcome.invoices
    ]
    told = f"{templating.pluralize(outcome.closed, 'period')} closed. Written: {'; '.join(written) or 'nothing'}."
    return pages.redirect_to("admin.organizations.show", _notice=told, organization_id=organization_id)


def _plan_change(organization_id: UUID, chosen: Form) -> Any:
    plan = chosen.value("plan")
    if not plan or chosen.errors:
        return None
    try:
        return organization_actions.preview_plan_change(organization_id, plan, chosen.value("when") or None)
    except NotFound:
        raise
    except ApiError as error:
        chosen.errors["plan"] = error.message
        return None
