"""Webhooks across tenants: what waits, which endpoints fail, and a single delivery."""

from dataclasses import replace
from uuid import UUID

from flask import Blueprint, Response, g

from saas_api.admin.queries.operations import deliveries
from saas_api.admin.queries.reading import reading
from saas_api.admin.schemas import files, lists
from saas_api.admin.service import acting
from saas_api.core.access import Principal, operator
from saas_api.core.render import Form, page, see_other, submits
from saas_api.webhooks import service as webhooks
from saas_api.webhooks.service.endpoints import public_url

bp = Blueprint("deliveries", __name__, url_prefix="/admin/deliveries")
bp.context_processor(lambda: {"host": public_url})
_ENDPOINT = '/endpoints/<id("whe"):endpoint_id>'
_DELIVERY = '/<id("whd"):delivery_id>'


@bp.get("")
@operator("support")
def index() -> Response:
    """Backlog per organization, and endpoints, those that fail first asked for."""
    query = lists.asked(lists.EndpointsQuery())
    if query["delivery"]:
        answer: Response = see_other("admin.deliveries.delivery", delivery_id=query["delivery"])
        return answer
    with reading() as session:
        found, backlog = deliveries.endpoints(session, query), deliveries.backlog(session)
    if query["format"] == "csv":
        return files.file_of("webhook-endpoints", files.ENDPOINTS, found)
    return page("admin/deliveries/index.html", found=found, backlog=backlog)


@bp.get(_ENDPOINT)
@operator("support")
def endpoint(endpoint_id: UUID) -> Response:
    """One endpoint and its deliveries."""
    query = lists.asked(lists.DeliveriesQuery())
    with reading() as session:
        opened = deliveries.open_endpoint(session, endpoint_id)
        found = deliveries.of_endpoint(session, opened.shown.endpoint, query)
    if query["format"] == "csv":
        return files.file_of("webhook-deliveries", files.DELIVERIES, found)
    return page("admin/deliveries/endpoint.html", opened=opened, found=found, states=lists.DELIVERY_STATES)


@bp.get(f"{_ENDPOINT}/<any(enable, disable):verb>")
@operator("admin")
def endpoint_act_form(endpoint_id: UUID, verb: str, form: Form | None = None) -> Response:
    """What disabling or enabling does, before it is done."""
    with reading() as session:
        opened = deliveries.open_endpoint(session, endpoint_id)
    return page("admin/deliveries/endpoint_act.html", opened=opened, verb=verb, form=form or Form())


@bp.post(f"{_ENDPOINT}/<any(enable, disable):verb>")
@operator("admin")
@submits(lists.ReasonForm(), again=endpoint_act_form, is_fresh=True)
def endpoint_act(endpoint_id: UUID, verb: str, body: dict[str, str]) -> Response:
    """Disable or enable an endpoint."""
    with reading() as session:
        owner = deliveries.open_endpoint(session, endpoint_id).shown.endpoint.organization_id
    with acting() as session:
        changes = {"is_enabled": verb == "enable"}
        webhooks.change(session, _by(owner), endpoint_id, changes, reason=body["reason"])
    return see_other("admin.deliveries.endpoint", endpoint_id=endpoint_id, _notice=f"The endpoint is {verb}d.")


@bp.get(_DELIVERY)
@operator("support")
def delivery(delivery_id: UUID) -> Response:
    """One delivery with its attempts."""
    with reading() as session:
        shown, target, name = deliveries.open_delivery(session, delivery_id)
        repeats = deliveries.repeats(session, shown.delivery)
    return page("admin/deliveries/show.html", shown=shown, endpoint=target, name=name, repeats=repeats)


@bp.get(f"{_DELIVERY}/resend")
@operator("support")
def resend_form(delivery_id: UUID, form: Form | None = None) -> Response:
    """What sending again does, before it is done."""
    with reading() as session:
        shown, target, name = deliveries.open_delivery(session, delivery_id)
    return page("admin/deliveries/resend.html", shown=shown, endpoint=target, name=name, form=form or Form())


@bp.post(f"{_DELIVERY}/resend")
@operator("support")
@submits(lists.ReasonForm(), again=resend_form, is_once=True, is_fresh=True)
def resend(delivery_id: UUID, body: dict[str, str]) -> Response:
    """Send the event of a delivery once more."""
    with reading() as session:
        owner = deliveries.open_delivery(session, delivery_id)[0].delivery.organization_id
    with acting() as session:
        new = webhooks.resend(session, _by(owner), delivery_id, reason=body["reason"])
    return see_other(
        "admin.deliveries.delivery", delivery_id=new.id, _notice="It is sent again: this is the new delivery."
    )


def _by(organization_id: UUID) -> Principal:
    """The operator, without a role in the organization they act on."""
    return replace(g.principal, organization_id=organization_id, role=None)
