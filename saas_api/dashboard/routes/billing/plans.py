"""`/dashboard/billing/plans`: plans side by side, what a change costs before it is made, and making it."""

from typing import Any

from flask import Blueprint, Response, g

from saas_api.billing import service as billing
from saas_api.billing.queries.catalogue import plan_of
from saas_api.billing.rules.explaining import number
from saas_api.billing.rules.plans.changes import in_force, scheduled
from saas_api.core import clock
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import Conflict, NotFound
from saas_api.core.render import Form, page, see_other, submits
from saas_api.core.render.filters import day
from saas_api.core.render.lists import read_filters
from saas_api.dashboard.queries.billing import compared as reads
from saas_api.dashboard.queries.prices import NAMES
from saas_api.dashboard.routes.billing.door import account, organization_id, zone
from saas_api.dashboard.schemas.billing import ChangeFilters, ChangeForm
from saas_api.organizations.service.audit import actor_of
from saas_api.usage.rules import read_days

bp = Blueprint("plans", __name__)


@bp.get("/billing/plans")
@require("billing:read")
def index() -> Response:
    """Show the plans side by side, each with what the last thirty days would cost on it."""
    found, now, here = account(), clock.now(), clock.zone(zone())
    days = read_days(None, None, now.astimezone(here).date(), here)
    quantities = reads.lately(session(), organization_id(), days)
    current, coming = in_force(found.stages, now), scheduled(found.stages, now)
    plans = reads.compared(session(), current.version_id, quantities)
    return page(
        "dashboard/billing/plans.html",
        plans=plans,
        current=plan_of(current.version_id),
        coming=coming,
        coming_code=coming and plan_of(coming.version_id),
        coming_name=coming
        and next((plan.version.name for plan in plans if plan.code == plan_of(coming.version_id)), ""),
        quantities=[(NAMES.get(meter, meter), number(quantity)) for meter, quantity in quantities.items()],
        days=days,
        period=found.period,
        zone=here.key,
    )


@bp.get("/billing/plans/<code>")
@require("billing:read")
def confirm(code: str, form: Form | None = None) -> Any:
    """Show what a change to a plan would do to the running period's bill; nothing is changed."""
    query, filters = read_filters(ChangeFilters())
    when = (form.value("when") or None) if form else query.get("when")
    try:
        change = billing.look_at_change(session(), organization_id(), code, when)
    except billing.InvalidPlan as cause:
        raise NotFound from cause
    except billing.SamePlan as cause:
        return see_other("dashboard.billing.plans.index", _notice=cause.message)
    return page(
        "dashboard/billing/confirm.html",
        status=422 if filters.errors else 200,
        form=form or Form({}, filters.errors),
        change=change,
        code=code,
        when=when,
        is_called_off=in_force(account().stages, clock.now()).version_id == change.version.id,
        names=reads.plan_names(session(), [change.previous]),
        zone=change.period.timezone,
    )


@bp.post("/billing/plans/<code>")
@require("billing:write")
@submits(ChangeForm(), again=confirm, is_once=True)
def change(code: str, body: dict[str, Any]) -> Any:
    """Change the plan as it was looked at."""
    try:
        made = billing.change_plan(session(), organization_id(), code, body["when"], actor_of(g.principal))
    except billing.SamePlan as cause:
        return see_other("dashboard.billing.plans.index", _notice=cause.message)
    if made.version.id != body["version"]:
        raise Conflict("The plan was changed meanwhile. Look at the amounts again; nothing was changed.")
    told = f"The plan is {made.version.name} now."
    if made.is_scheduled:
        told = f"The plan will be {made.version.name} from {day(made.effective_at, made.period.timezone)} on."
    return see_other("dashboard.billing.plans.index", _notice=told)
