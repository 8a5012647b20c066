"""Pages that compare plans and change the plan."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.billing import bill_inputs, currencies, period_close, plans, subscriptions
from saas_api.billing.currencies import CurrencyFixed
from saas_api.billing.plan_schemas import ChangePlanIn
from saas_api.billing.rating import plan_changes
from saas_api.billing.subscriptions import AlreadyOnPlan, InvalidPlan, SpendCapTooLow
from saas_api.core import clock, formatting, time_zones
from saas_api.core.access import require_permission
from saas_api.core.db import engine
from saas_api.core.errors import Conflict, NotFound, ValidationFailed
from saas_api.core.fields import Text
from saas_api.core.settings import setting
from saas_api.core.web import forms, pages
from saas_api.core.web.forms import Form, form_view
from saas_api.dashboard import context, prices
from saas_api.dashboard.prices import ComparedPlan, PlanTable
from saas_api.usage import meter_file, meters, ranges
from saas_api.usage.ranges import DateRange

bp = Blueprint("plans", __name__)
bp.before_request(context.require_live_mode)


def compare_plans(
    session: Session, organization_id: UUID, current: str, days: DateRange, *, is_currency_fixed: bool = False
) -> tuple[PlanTable, dict[str, Decimal]]:
    """Returns the offered plans, preceded by the current one if it is not offered, and the quantities by meter.

    current: plan version in force
    days: thirty days whose usage is compared
    is_currency_fixed: leave out plans in other currencies
    """
    currency = plans.version_currency(session, current)
    offers = {
        offer.version.id: offer.rate_limit
        for offer in plans.list_offers(session, currency)
        if offer.currency == currency or not is_currency_fixed
    }
    code = plans.plan_for_version(current)
    is_offered = any(plans.plan_for_version(version_id) == code for version_id in offers)
    compared = {**({} if is_offered else {current: None}), **offers}
    used = bill_inputs.recent_usage(session, organization_id, days, [current, *offers, ""])
    by_id, by_code = plans.get_versions(session, list(compared)), meters.all_meters(session)
    versions = [by_id[version_id] for version_id in compared]
    table = prices.tabulate(
        [
            ComparedPlan(
                version.plan_code,
                version,
                compared[version.id],
                prices.cost_of_month(version, used.get(version.id, ())),
            )
            for version in versions
        ],
        {meter: by_code[meter] for version in versions for meter in version.prices},
    )
    return table, {usage.meter: usage.quantity for usage in used.get("", ())}


def get_plan_names(session: Session, version_ids: Sequence[str]) -> dict[str, str]:
    """Returns plan names by plan version."""
    rows = session.execute(
        text("SELECT v.id, p.name FROM plan_versions v JOIN plans p ON p.code = v.plan_code WHERE v.id = ANY (:ids)"),
        {"ids": list(version_ids)},
    )
    return dict(rows.all())


class ChangePlanForm(ChangePlanIn):
    """A plan change as previewed."""

    class Meta(ChangePlanIn.Meta):
        """The path names the plan."""

        exclude = ("plan",)

    version = Text(maximum=60, required=True)


@bp.get("/billing/plans")
@require_permission("billing:read")
def index() -> Response:
    """Compare the plans by the cost of the last thirty days."""
    account, now, time_zone = context.current_account(), clock.now(), time_zones.get_zone(context.current_zone())
    days = ranges.parse_date_range(None, None, now.astimezone(time_zone).date(), time_zone)
    current, scheduled = plan_changes.segment_at(account.stages, now), plan_changes.next_segment(account.stages, now)
    obstacle = currencies.find_obstacle(engine.session(), context.current_organization_id(), account.period)
    comparison, quantities = compare_plans(
        engine.session(),
        context.current_organization_id(),
        current.version_id,
        days,
        is_currency_fixed=obstacle is not None,
    )
    names = meters.all_meters(engine.session()) if quantities else {}
    return pages.render_page(
        "dashboard/billing/plans.html",
        table=comparison,
        current=plans.plan_for_version(current.version_id),
        coming=scheduled,
        coming_code=scheduled and plans.plan_for_version(scheduled.version_id),
        coming_name=scheduled
        and next(
            (plan.name for plan in comparison.plans if plan.code == plans.plan_for_version(scheduled.version_id)), ""
        ),
        quantities=[
            (meter_file.in_text(names[code].name), formatting.format_number(quantity))
            for code, quantity in quantities.items()
        ],
        days=days,
        period=account.period,
        zone=time_zone.key,
    )


@bp.get("/billing/plans/<code>")
@require_permission("billing:read")
def change_form(code: str, form: Form | None = None) -> Any:
    """Preview the effect of a plan change on the current period; nothing is changed."""
    query, filters = forms.parse_filters(ChangePlanIn(only=("when",)))
    when = (form.value("when") or None) if form else query.get("when")
    try:
        change = subscriptions.preview_change(engine.session(), context.current_organization_id(), code, when)
    except InvalidPlan as cause:
        raise NotFound from cause
    except (AlreadyOnPlan, CurrencyFixed) as cause:
        return pages.redirect_to("dashboard.plans.index", _notice=cause.message)
    return pages.render_page(
        "dashboard/billing/change_plan.html",
        status=422 if filters.errors else 200,
        form=form or Form({}, filters.errors),
        change=change,
        code=code,
        default_cap_minor=setting("DEFAULT_SPEND_CAP").get(change.currency),
        when=when,
        is_called_off=plan_changes.segment_at(context.current_account().stages, clock.now()).version_id
        == change.version.id,
        names=get_plan_names(engine.session(), [change.canceled or change.previous, change.previous]),
        invoiced_at=period_close.get_invoicing_time(change.period),
        zone=change.period.timezone,
    )


@bp.post("/billing/plans/<code>")
@require_permission("billing:write")
@form_view(ChangePlanForm(), form=change_form, is_idempotent=True)
def change_plan(code: str, body: dict[str, Any]) -> Any:
    """Change the plan as previewed."""
    try:
        change = subscriptions.change_plan(
            engine.session(),
            context.current_organization_id(),
            code,
            body["when"],
            audit.actor_for(g.principal),
            is_cap_confirmed=body["confirm_spend_cap"],
        )
    except SpendCapTooLow as cause:
        raise ValidationFailed.at_field("confirm_spend_cap", cause.message) from cause
    except (AlreadyOnPlan, CurrencyFixed) as cause:
        return pages.redirect_to("dashboard.plans.index", _notice=cause.message)
    if change.version.id != body["version"]:
        raise Conflict(
            "This plan was updated in the meantime and nothing was changed. Review the amounts and try again."
        )
    notice = f"You are now on the {change.version.name} plan."
    if change.is_scheduled:
        effective_on = formatting.format_date(change.effective_at, change.period.timezone)
        notice = f"Your plan changes to {change.version.name} on {effective_on}."
    return pages.redirect_to("dashboard.plans.index", _notice=notice)
