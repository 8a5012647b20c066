"""Plan comparison and change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g
from marshmallow import fields, validate
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.billing import bill_inputs, plans, subscriptions
from saas_api.billing.models import BillingPeriod
from saas_api.billing.rating import bill, explanation, plan_changes
from saas_api.billing.rating.bill import RatedPlanVersion
from saas_api.billing.subscriptions import AlreadyOnPlan, InvalidPlan
from saas_api.core import clock
from saas_api.core.access import require_permission
from saas_api.core.db import engine
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.fields import StrictSchema, Text
from saas_api.core.web import forms, pages, templating
from saas_api.core.web.forms import Form, form_view
from saas_api.dashboard import context, prices
from saas_api.dashboard.prices import DAYS_PER_MONTH, METER_LABELS
from saas_api.usage import ranges
from saas_api.usage.ranges import DateRange
from saas_api.usage.rollups import LIVE_USAGE_SQL

bp = Blueprint("plans", __name__)

_LATELY = text(f"""WITH live AS ({LIVE_USAGE_SQL})
  SELECT meter_code, sum(quantity) FROM live WHERE bucket_at >= :starts_at AND bucket_at < :ends_at
  GROUP BY 1 ORDER BY 1""")


@dataclass(frozen=True)
class PlanComparison:
    """A plan beside others.

    lines: its prices in words
    rate_limit: calls a minute; None for a plan that is not on offer
    month_minor: a whole month with the quantities that were used lately
    """

    code: str
    version: RatedPlanVersion
    lines: Sequence[str]
    rate_limit: int | None
    month_minor: int


def recent_usage(session: Session, organization_id: UUID, days: DateRange) -> dict[str, Decimal]:
    """What was used in a range of days, by meter."""
    values = {"organization_id": organization_id, "starts_at": days.starts_at, "ends_at": days.ends_at}
    return dict(session.execute(_LATELY, values).all())


def compare_plans(session: Session, current: str, quantities: Mapping[str, Decimal]) -> list[PlanComparison]:
    """The plans that anybody may choose, and the one in force if it is none of them.

    current: plan version in force
    quantities: by meter, of a month
    """
    found = [
        PlanComparison(
            one.offer.code, one.offer.version, one.lines, one.offer.rate_limit, _month(one.offer.version, quantities)
        )
        for one in prices.list_plan_cards(session)
    ]
    code = plans.plan_for_version(current)
    if all(one.code != code for one in found):
        units = plans.meter_units(session)
        version = plans.get_versions(session, [current])[current]
        lines = [
            line
            for meter, price in sorted(version.prices.items(), reverse=True)
            for line in prices.describe_price(meter, units[meter], price, version.currency)
        ]
        found.insert(0, PlanComparison(code, version, lines, None, _month(version, quantities)))
    return found


def get_plan_names(session: Session, version_ids: Sequence[str]) -> dict[str, str]:
    """Names of the plans that versions belong to, by version."""
    rows = session.execute(
        text("SELECT v.id, p.name FROM plan_versions v JOIN plans p ON p.code = v.plan_code WHERE v.id = ANY (:ids)"),
        {"ids": list(version_ids)},
    )
    return dict(rows.all())


def _month(version: RatedPlanVersion, quantities: Mapping[str, Decimal]) -> int:
    """A whole month on one version, as `simulate` prices given quantities."""
    start = clock.now()
    month = BillingPeriod(
        starts_at=start, ends_at=start + DAYS_PER_MONTH, nominal_seconds=int(DAYS_PER_MONTH.total_seconds())
    )
    return bill.calculate_bill(bill_inputs.inputs_for_version(month, version, quantities)).total_minor


_WHEN = validate.OneOf(("now", "period_end"))


class ChangePlanQuery(StrictSchema):
    """When a change of plan is to take effect."""

    when = fields.String(load_default=None, validate=_WHEN)


class ChangePlanForm(StrictSchema):
    """A change of plan as it was looked at."""

    when = fields.String(load_default=None, validate=_WHEN)
    version = Text(maximum=60, required=True)


@bp.get("/billing/plans")
@require_permission("billing:read")
def index() -> Response:
    """Show the plans side by side, each with what the last thirty days would cost on it."""
    found, now, here = context.current_account(), clock.now(), clock.get_zone(context.current_zone())
    days = ranges.parse_date_range(None, None, now.astimezone(here).date(), here)
    quantities = recent_usage(engine.session(), context.current_organization_id(), days)
    current, coming = plan_changes.segment_at(found.stages, now), plan_changes.next_segment(found.stages, now)
    comparison = compare_plans(engine.session(), current.version_id, quantities)
    return pages.render_page(
        "dashboard/billing/plans.html",
        plans=comparison,
        current=plans.plan_for_version(current.version_id),
        coming=coming,
        coming_code=coming and plans.plan_for_version(coming.version_id),
        coming_name=coming
        and next(
            (plan.version.name for plan in comparison if plan.code == plans.plan_for_version(coming.version_id)), ""
        ),
        quantities=[
            (METER_LABELS.get(meter, meter), explanation.format_quantity(quantity))
            for meter, quantity in quantities.items()
        ],
        days=days,
        period=found.period,
        zone=here.key,
    )


@bp.get("/billing/plans/<code>")
@require_permission("billing:read")
def change_form(code: str, form: Form | None = None) -> Any:
    """Show what a change to a plan would do to the running period's bill; nothing is changed."""
    query, filters = forms.parse_filters(ChangePlanQuery())
    when = (form.value("when") or None) if form else query.get("when")
    try:
        change = subscriptions.preview_change(engine.session(), context.current_organization_id(), code, when)
    except InvalidPlan as cause:
        raise NotFound from cause
    except AlreadyOnPlan as cause:
        return pages.redirect_to("dashboard.plans.index", _notice=cause.message)
    return pages.render_page(
        "dashboard/billing/change_plan.html",
        status=422 if filters.errors else 200,
        form=form or Form({}, filters.errors),
        change=change,
        code=code,
        when=when,
        is_called_off=plan_changes.segment_at(context.current_account().stages, clock.now()).version_id
        == change.version.id,
        names=get_plan_names(engine.session(), [change.previous]),
        zone=change.period.timezone,
    )


@bp.post("/billing/plans/<code>")
@require_permission("billing:write")
@form_view(ChangePlanForm(), form=change_form, is_idempotent=True)
def change_plan(code: str, body: dict[str, Any]) -> Any:
    """Change the plan as it was looked at."""
    try:
        made = subscriptions.change_plan(
            engine.session(), context.current_organization_id(), code, body["when"], audit.actor_for(g.principal)
        )
    except AlreadyOnPlan as cause:
        return pages.redirect_to("dashboard.plans.index", _notice=cause.message)
    if made.version.id != body["version"]:
        raise Conflict("The plan was changed meanwhile. Look at the amounts again; nothing was changed.")
    told = f"The plan is {made.version.name} now."
    if made.is_scheduled:
        told = f"The plan will be {made.version.name} from {templating.format_date(made.effective_at, made.period.timezone)} on."
    return pages.redirect_to("dashboard.plans.index", _notice=told)
