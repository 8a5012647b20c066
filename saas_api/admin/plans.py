"""Plan versions, simulation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response
from marshmallow import fields

from saas_api.accounts.audit import OperatorContext
from saas_api.admin import context, organizations
from saas_api.admin.context import ReasonForm
from saas_api.billing import plan_drafts, plans, previews
from saas_api.billing.plans import PlanVersionRow
from saas_api.billing.previews import PlanSimulation
from saas_api.billing.rating import plan_file
from saas_api.billing.rating.bill import RatedPlanVersion
from saas_api.billing.rating.plan_file import PlanContent
from saas_api.core import clock
from saas_api.core.access import require_operator
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import ApiError, NotFound, ValidationFailed
from saas_api.core.fields import QueryInteger, StrictSchema, Text
from saas_api.core.web import forms, pages
from saas_api.core.web.forms import Form
from saas_api.usage import meters
from saas_api.usage.meter_file import MeterContent

bp = Blueprint("plans", __name__)

MAX_SUBSCRIBERS = 100
_SUBSCRIBERS = sa.text("""
SELECT o.id, o.name, o.status, s.standing, g.starts_at FROM subscription_segments g
JOIN organizations o ON o.id = g.organization_id JOIN subscriptions s ON s.organization_id = o.id
WHERE g.plan_version_id = :id AND g.starts_at <= :at AND (g.ends_at IS NULL OR g.ends_at > :at)
ORDER BY g.starts_at DESC, o.id LIMIT :most""")


@dataclass(frozen=True)
class PlanVersionView:
    """One published version of a plan.

    document: the plan file
    meters: by code
    subscribers: the newest, at most MAX_SUBSCRIBERS
    outdated: older versions in its currency that organizations are still on; empty unless it is the newest
    """

    row: PlanVersionRow
    content: PlanContent
    document: Mapping[str, Any]
    meters: Mapping[str, MeterContent]
    subscribers: Sequence[Any]
    outdated: Sequence[PlanVersionRow]


def list_plans(session: SystemSession, at: datetime) -> list[tuple[PlanVersionRow, RatedPlanVersion]]:
    """Every published version with its prices, in the catalogue's order."""
    rows = plans.list_versions(session, at)
    versions = plans.get_versions(session, [row.version_id for row in rows])
    return [(row, versions[row.version_id]) for row in rows]


def get_plan(session: SystemSession, version_id: str) -> PlanVersionView:
    """One published version as it is now.

    raises: NotFound
    """
    now = clock.now()
    rows = plans.list_versions(session, now)
    row = next((row for row in rows if row.version_id == version_id), None)
    if row is None:
        raise NotFound
    values = {"id": version_id, "at": now, "most": MAX_SUBSCRIBERS}
    content = plans.get_plan_content(session, version_id)
    return PlanVersionView(
        row,
        content,
        plan_file.to_document(content),
        meters.all_meters(session),
        session.execute(_SUBSCRIBERS, values).all(),
        [other for other in _same_currency(session, rows, row) if other.organizations] if row.is_newest else (),
    )


def _same_currency(session: SystemSession, rows: Sequence[PlanVersionRow], row: PlanVersionRow) -> list[PlanVersionRow]:
    """The other versions of the plan of a version, in its currency."""
    others = [other for other in rows if other.code == row.code and other.version_id != row.version_id]
    versions = plans.get_versions(session, [row.version_id, *(other.version_id for other in others)])
    currency = versions[row.version_id].currency
    return [other for other in others if versions[other.version_id].currency == currency]


def list_newer_versions(session: SystemSession, plan: PlanVersionView) -> list[str]:
    """Ids of the versions of a plan in the same currency that were published later, the newest first."""
    others = _same_currency(session, plans.list_versions(session, clock.now()), plan.row)
    return [other.version_id for other in others if other.published_at > plan.row.published_at]


class SimulationQuery(StrictSchema):
    """The usage to simulate: an organization's, in a number of periods before the running one, or in that (0)."""

    organization = Text(maximum=200, load_default=None)
    periods = QueryInteger(minimum=0, maximum=12, load_default=1)


def simulate(organization_id: UUID, plan: str, count: int) -> PlanSimulation:
    """Rates an organization's usage with the newest version of a plan.

    count: periods before the running one; 0 for the running one
    raises: as `previews.simulate_plans`
    """
    with tenancy.tenant_session(organization_id) as session:
        return previews.simulate_plans(session, organization_id, [plan], count)[0]


class ArchiveForm(ReasonForm):
    """Whether the plan is offered again instead."""

    is_undone = fields.Boolean(load_default=False, metadata={"option": "--undo", "help": "Restore the plan."})


def archive_plan(operator: OperatorContext, plan: str, *, is_undone: bool) -> tuple[bool, bool]:
    """Archives a plan, or offers it again; its subscribers stay on it.

    returns: whether it is archived, and whether this changed
    raises: as `plans.archive_plan`
    """
    return not is_undone, plans.archive_plan(plan, operator.actor, operator.reason, is_undone=is_undone)


@bp.get("/admin/plans")
@require_operator("support")
def index() -> Response:
    """List every version of every plan."""
    with context.read_session() as session:
        versions, drafts = list_plans(session, clock.now()), plan_drafts.list_drafts(session)
    return pages.render_page("admin/plans/index.html", versions=versions, drafts=drafts)


@bp.get("/admin/plans/<version_id>")
@require_operator("support")
def show(version_id: str) -> Response:
    """Show the prices, limits and subscribers of a version, and simulate it on an organization's usage."""
    query, form = forms.parse_filters(SimulationQuery())
    with context.read_session() as session:
        plan = get_plan(session, version_id)
        names = organizations.list_names(session)
    simulation = _simulate(plan.row.code, query, form) if query.get("organization") else None
    return pages.render_page(
        "admin/plans/show.html",
        status=422 if form.errors else 200,
        plan=plan,
        form=Form({"periods": 1, **form.values}, form.errors),
        simulation=simulation,
        names=names,
        max_subscribers=MAX_SUBSCRIBERS,
    )


def _simulate(plan: str, query: dict[str, Any], form: Form) -> PlanSimulation | None:
    try:
        with context.read_session() as session:
            organization = organizations.find_one(session, query["organization"].strip())
        return simulate(organization.id, plan, query["periods"])
    except ValidationFailed as error:
        form.errors["organization"] = str(error.details["fields"][0]["reason"])
    except ApiError as error:
        form.errors["organization"] = error.message
    return None
