"""Plan versions, simulation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response, g, request
from sqlalchemy.orm import Session

from saas_api.accounts import organizations
from saas_api.admin import context
from saas_api.admin.context import ReasonForm
from saas_api.billing import plans, previews
from saas_api.billing.plans import PlanVersionRow
from saas_api.billing.previews import PlanSimulation
from saas_api.billing.rating import plan_file
from saas_api.billing.rating.bill import RatedPlanVersion
from saas_api.billing.rating.plan_file import PlanContent
from saas_api.core import clock
from saas_api.core.access import Principal, require_operator
from saas_api.core.db import tenancy
from saas_api.core.errors import ApiError, NotFound
from saas_api.core.fields import PrefixedId, QueryInteger, StrictSchema
from saas_api.core.web import forms, pages
from saas_api.core.web.forms import Form, form_view

bp = Blueprint("plans", __name__)

MAX_SUBSCRIBERS = 100
_SUBSCRIBERS = sa.text("""
SELECT o.id, o.name, o.status, s.standing, g.starts_at FROM subscription_segments g
JOIN organizations o ON o.id = g.organization_id JOIN subscriptions s ON s.organization_id = o.id
WHERE g.plan_version_id = :id AND g.starts_at <= :at AND (g.ends_at IS NULL OR g.ends_at > :at)
ORDER BY g.starts_at DESC, o.id LIMIT :most""")


@dataclass(frozen=True)
class PlanVersionView:
    """One version of a plan.

    document: as its file says it
    units: of the meters
    subscribers: the newest, at most MOST_SUBSCRIBERS
    """

    listed: PlanVersionRow
    version: PlanContent
    document: Mapping[str, Any]
    units: Mapping[str, str]
    subscribers: Sequence[Any]


def list_plans(session: Session, at: datetime) -> list[tuple[PlanVersionRow, RatedPlanVersion]]:
    """Every published version with what it charges, in the catalogue's order."""
    listed = plans.list_versions(session, at)
    versions = plans.get_versions(session, [one.version_id for one in listed])
    return [(one, versions[one.version_id]) for one in listed]


def get_plan(session: Session, version_id: str, at: datetime) -> PlanVersionView:
    """One published version.

    raises: NotFound
    """
    listed = next((one for one in plans.list_versions(session, at) if one.version_id == version_id), None)
    if listed is None:
        raise NotFound
    values = {"id": version_id, "at": at, "most": MAX_SUBSCRIBERS}
    content = plans.get_plan_content(session, version_id)
    return PlanVersionView(
        listed,
        content,
        plan_file.to_document(content),
        plans.meter_units(session),
        session.execute(_SUBSCRIBERS, values).all(),
    )


class SimulationQuery(StrictSchema):
    """Whose usage, and of how many periods before the running one; 0 is the running one."""

    organization_id = PrefixedId("org", load_default=None)
    periods = QueryInteger(minimum=0, maximum=12, load_default=1)


def simulate(organization_id: UUID, plan: str, count: int) -> PlanSimulation:
    """What an organization's real usage would have cost on the newest version of a plan.

    count: periods before the running one; 0 for the running one
    raises: as `billing.simulate`
    """
    with tenancy.tenant_session(organization_id) as session:
        return previews.simulate_plans(session, organization_id, [plan], count)[0]


def archive_plan(principal: Principal, plan: str, reason: str, *, is_undone: bool) -> bool:
    """Offer a plan no longer, or again; whoever is on it stays.

    returns: whether anything changed
    raises: as `billing.retire`
    """
    return plans.archive_plan(
        plan, context.current_operator(principal), organizations.validate_reason(reason), is_undone=is_undone
    )


@bp.get("/admin/plans")
@require_operator("support")
def index() -> Response:
    """List every version of every plan."""
    with context.read_session() as session:
        listed = list_plans(session, clock.now())
    return pages.render_page("admin/plans/index.html", listed=listed)


@bp.get("/admin/plans/<version_id>")
@require_operator("support")
def show(version_id: str) -> Response:
    """Show one version: prices, limits, who is on it, and on request what an organization's usage would cost on it."""
    query, form = forms.parse_filters(SimulationQuery())
    with context.read_session() as session:
        found = get_plan(session, version_id, clock.now())
    simulated: Any = None
    if query.get("organization_id"):
        simulated = _simulation(found.listed.code, query, form)
    return pages.render_page(
        "admin/plans/show.html",
        status=422 if form.errors else 200,
        found=found,
        form=Form({"periods": 1, **form.values}, form.errors),
        simulated=simulated,
        is_asked="organization_id" in request.args,
        most=MAX_SUBSCRIBERS,
    )


@bp.get("/admin/plans/<version_id>/retire")
@require_operator("admin")
def archive_form(version_id: str, form: Form | None = None) -> Response:
    """Ask why a plan is offered no longer, or again."""
    with context.read_session() as session:
        found = get_plan(session, version_id, clock.now())
    return pages.render_page("admin/plans/retire.html", listed=found.listed, version=found.version, form=form or Form())


@bp.post("/admin/plans/<version_id>/retire")
@require_operator("admin")
@form_view(ReasonForm(), form=archive_form, requires_fresh_login=True)
def archive(version_id: str, body: dict[str, Any]) -> Any:
    """Offer a plan no longer, or again."""
    with context.read_session() as session:
        listed = get_plan(session, version_id, clock.now()).listed
    archive_plan(g.principal, listed.code, body["reason"], is_undone=listed.is_archived)
    told = "is offered again" if listed.is_archived else "is offered no longer"
    return pages.redirect_to(".show", _notice=f"The plan {listed.code} {told}.", version_id=version_id)


def _simulation(plan: str, query: dict[str, Any], form: Form) -> Any:
    try:
        return simulate(query["organization_id"], plan, query["periods"])
    except ApiError as error:
        form.errors["organization_id"] = error.message
        return None
