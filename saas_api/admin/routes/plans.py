"""Pages about the catalogue: versions, what they charge, who is on them, and what real usage would cost on them."""

from typing import Any

from flask import Blueprint, Response, g, request

from saas_api.admin import service
from saas_api.admin.queries import plans as reads
from saas_api.admin.queries.reading import reading
from saas_api.admin.schemas.lists import ReasonForm
from saas_api.admin.schemas.plans import PreviewQuery
from saas_api.core import clock
from saas_api.core.access import operator
from saas_api.core.errors import ApiError
from saas_api.core.render import Form, page, see_other, submits
from saas_api.core.render.lists import read_filters

bp = Blueprint("plans", __name__)


@bp.get("/admin/plans")
@operator("support")
def index() -> Response:
    """List every version of every plan."""
    with reading() as session:
        listed = reads.listing(session, clock.now())
    return page("admin/plans/index.html", listed=listed)


@bp.get("/admin/plans/<version_id>")
@operator("support")
def show(version_id: str) -> Response:
    """Show one version: prices, limits, who is on it, and on request what an organization's usage would cost on it."""
    query, form = read_filters(PreviewQuery())
    with reading() as session:
        found = reads.plan(session, version_id, clock.now())
    simulated: Any = None
    if query.get("organization_id"):
        simulated = _simulated(found.listed.code, query, form)
    return page(
        "admin/plans/show.html",
        status=422 if form.errors else 200,
        found=found,
        form=Form({"periods": 1, **form.values}, form.errors),
        simulated=simulated,
        is_asked="organization_id" in request.args,
        most=reads.MOST_SUBSCRIBERS,
    )


@bp.get("/admin/plans/<version_id>/retire")
@operator("admin")
def retiring(version_id: str, form: Form | None = None) -> Response:
    """Ask why a plan is offered no longer, or again."""
    with reading() as session:
        found = reads.plan(session, version_id, clock.now())
    return page("admin/plans/retire.html", listed=found.listed, version=found.version, form=form or Form())


@bp.post("/admin/plans/<version_id>/retire")
@operator("admin")
@submits(ReasonForm(), again=retiring, is_fresh=True)
def retire(version_id: str, body: dict[str, Any]) -> Any:
    """Offer a plan no longer, or again."""
    with reading() as session:
        listed = reads.plan(session, version_id, clock.now()).listed
    service.retire_plan(g.principal, listed.code, body["reason"], is_undone=listed.is_archived)
    told = "is offered again" if listed.is_archived else "is offered no longer"
    return see_other(".show", _notice=f"The plan {listed.code} {told}.", version_id=version_id)


def _simulated(plan: str, query: dict[str, Any], form: Form) -> Any:
    try:
        return service.simulate(query["organization_id"], plan, query["periods"])
    except ApiError as error:
        form.errors["organization_id"] = error.message
        return None
