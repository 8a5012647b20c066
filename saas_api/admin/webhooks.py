"""Endpoints and deliveries of every organization."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Response, g, request, url_for
from marshmallow import fields, validate

from saas_api.accounts.audit import OperatorContext
from saas_api.accounts.models import Organization
from saas_api.admin import context, lists, organizations
from saas_api.admin.action_types import Action
from saas_api.admin.context import Preview, ReasonForm
from saas_api.admin.lists import Columns, ListQuery
from saas_api.core import ids
from saas_api.core.access import Principal, require_operator
from saas_api.core.db.pagination import Page
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import NotFound
from saas_api.core.fields import PrefixedId, Text
from saas_api.core.web import pages, templating
from saas_api.core.web.forms import Form
from saas_api.webhooks import deliveries, endpoints, labels, models
from saas_api.webhooks.deliveries import DeliveryView, ResentDeliveries
from saas_api.webhooks.endpoints import EndpointHealth
from saas_api.webhooks.models import Attempt, Delivery, DeliveryState, Endpoint, EndpointStatus, Event
from saas_api.webhooks.schemas import DeliveryOut, EndpointHealthOut, EndpointOut

bp = Blueprint("webhooks", __name__, url_prefix="/admin/deliveries")

MAX_ROWS = 100
_BACKLOG = sa.text("""
SELECT d.organization_id, o.name, count(*) AS waiting, count(*) FILTER (WHERE d.next_at <= now()) AS due,
  count(*) FILTER (WHERE d.attempts > 0) AS retrying, min(d.created_at) AS oldest_at,
  count(DISTINCT d.endpoint_id) AS endpoints
FROM webhook_deliveries d JOIN organizations o ON o.id = d.organization_id
WHERE d.status IN ('queued', 'sending')
GROUP BY d.organization_id, o.name ORDER BY count(*) FILTER (WHERE d.next_at <= now()) DESC, count(*) DESC LIMIT :most
""")
# A delivery is found organization by organization, each by the primary key: no index has the id alone.
_FIND_ORGANIZATION = sa.text("""
SELECT o.id FROM organizations o
WHERE EXISTS (SELECT FROM webhook_deliveries d WHERE d.organization_id = o.id AND d.id = :id OFFSET 0)
""")


_HEALTH: Mapping[str, sa.ColumnElement[bool]] = {
    "failing": sa.and_(Endpoint.status == EndpointStatus.ENABLED, Endpoint.consecutive_failures > 0),
    "disabled": Endpoint.status != EndpointStatus.ENABLED,
}


class EndpointListQuery(ListQuery):
    """Filters of endpoints; with `delivery` the page redirects to that delivery.

    health: "failing" for enabled endpoints whose last attempt failed
    """

    health = fields.String(load_default=None, validate=validate.OneOf(list(_HEALTH)))
    organization = Text(maximum=200, load_default=None)
    delivery = PrefixedId("whd", load_default=None)


class ResendDeliveriesForm(ReasonForm):
    """Picked deliveries, and the reason."""

    delivery_ids = fields.List(PrefixedId("whd"), data_key="ids", validate=validate.Length(min=1, max=MAX_ROWS))


class DeliveryListQuery(ListQuery):
    """Filters of an endpoint's deliveries."""

    status = fields.String(load_default=None, validate=validate.OneOf(list(DeliveryState)))


@dataclass(frozen=True)
class OrganizationBacklog:
    """Pending deliveries of one organization.

    due: would be sent now; the others wait for their next attempt
    retrying: have failed at least once
    """

    organization_id: UUID
    name: str
    waiting: int
    due: int
    retrying: int
    oldest_at: datetime
    endpoints: int


@dataclass(frozen=True)
class EndpointDetail:
    """An endpoint with its organization and its health."""

    organization_name: str
    endpoint: Endpoint
    health: EndpointHealth

    @property
    def address(self) -> str:
        """The URL without what its query holds."""
        return endpoints.redacted_url(self.endpoint)


@dataclass(frozen=True)
class DeliveryDetail:
    """A delivery with its event, its attempts, its endpoint and its organization."""

    delivery: Delivery
    event: Event
    attempts: Sequence[Attempt]
    endpoint: Endpoint
    organization_name: str

    @property
    def address(self) -> str:
        """The URL of the endpoint without what its query holds."""
        return endpoints.redacted_url(self.endpoint)


def _resource(row: Any) -> dict[str, Endpoint]:
    return {"endpoint": row[0]}  # no column needs more of an EndpointView


ENDPOINT_COLUMNS: Columns = {
    **lists.resource_columns(EndpointOut(), "id", read=_resource),
    "organization_id": lambda row: ids.format_id("org", row[0].organization_id),
    "organization": lambda row: row[1],
    **lists.resource_columns(EndpointOut(), "status", read=_resource),
    **lists.resource_columns(
        EndpointHealthOut(), "consecutive_failures", "first_failure_at", "last_success_at", read=itemgetter(0)
    ),
    **lists.resource_columns(EndpointOut(), "created_at", read=_resource),
}
DELIVERY_COLUMNS: Columns = lists.resource_columns(
    DeliveryOut(),
    "id",
    "event_id",
    "event_type",
    "cause",
    "status",
    "attempt_count",
    "last_status_code",
    "error_code",
    "created_at",
    "finished_at",
)


def list_backlog(session: SystemSession) -> list[OrganizationBacklog]:
    """Organizations with pending deliveries, those with most due first; at most MAX_ROWS."""
    return [OrganizationBacklog(*row) for row in session.execute(_BACKLOG, {"most": MAX_ROWS})]


def list_endpoints(session: SystemSession, query: dict[str, Any]) -> Page:
    """A page of (`Endpoint`, name of its organization), newest first, without deleted ones.

    query: as of EndpointListQuery
    raises: ValidationFailed
    """
    statement = (
        sa.select(Endpoint, Organization.name)
        .join(Organization, Organization.id == Endpoint.organization_id)
        .where(Endpoint.deleted_at.is_(None))
    )
    if query["health"]:
        statement = statement.where(_HEALTH[query["health"]])
    if query["organization"]:
        statement = statement.where(organizations.is_match(query["organization"].strip()))
    return lists.paginate_or_export(session, statement, Endpoint.created_at.desc(), Endpoint.id.desc(), query=query)


def count_endpoints(session: SystemSession, query: dict[str, Any]) -> dict[str, int]:
    """Number of endpoints by health with the other filters, as of `lists.count_each`."""
    statement = sa.select(Endpoint.id).join(Organization, Organization.id == Endpoint.organization_id)
    if query["organization"]:
        statement = statement.where(organizations.is_match(query["organization"].strip()))
    return lists.count_each(session, statement.where(Endpoint.deleted_at.is_(None)), _HEALTH)


def get_endpoint(session: SystemSession, endpoint_id: UUID) -> EndpointDetail:
    """An endpoint of any organization.

    raises: NotFound
    """
    row = session.execute(
        sa.select(Endpoint, Organization.name)
        .join(Organization, Organization.id == Endpoint.organization_id)
        .where(Endpoint.id == endpoint_id, Endpoint.deleted_at.is_(None))
    ).first()
    if row is None:
        raise NotFound
    endpoint, name = row
    [view] = endpoints.list_endpoint_views(session, endpoint.organization_id, [endpoint])
    return EndpointDetail(name, endpoint, view.health)


def list_endpoint_deliveries(session: SystemSession, endpoint: Endpoint, query: dict[str, Any]) -> Page:
    """A page of DeliveryView of an endpoint, newest first.

    query: as of DeliveryListQuery
    raises: ValidationFailed
    """
    is_event = sa.and_(Event.organization_id == Delivery.organization_id, Event.id == Delivery.event_id)
    is_of_endpoint = (Delivery.organization_id == endpoint.organization_id, Delivery.endpoint_id == endpoint.id)
    statement = sa.select(Delivery, Event).join(Event, is_event).where(*is_of_endpoint)
    if query["status"]:
        statement = statement.where(models.is_in_state(query["status"]))
    keys = (Delivery.created_at.desc(), Delivery.id.desc())
    return lists.paginate_or_export(session, statement, *keys, query=query, convert=lambda row: DeliveryView(*row))


def get_delivery(session: SystemSession, delivery_id: UUID) -> DeliveryDetail:
    """A delivery of any organization.

    raises: NotFound
    """
    organization_id = session.scalar(_FIND_ORGANIZATION, {"id": delivery_id})
    delivery = session.get(Delivery, (organization_id, delivery_id)) if organization_id else None
    if delivery is None:
        raise NotFound
    endpoint = session.get_one(Endpoint, (organization_id, delivery.endpoint_id))
    view = deliveries.get_delivery_view(session, delivery)
    organization = session.get_one(Organization, organization_id)
    return DeliveryDetail(delivery, view.event, view.attempts, endpoint, organization.name)


def list_same_event_deliveries(session: SystemSession, delivery: Delivery) -> Sequence[Delivery]:
    """Deliveries of the same event to the same endpoint, newest first; at most MAX_ROWS."""
    is_of_event = (Delivery.organization_id == delivery.organization_id, Delivery.event_id == delivery.event_id)
    statement = sa.select(Delivery).where(*is_of_event, Delivery.endpoint_id == delivery.endpoint_id)
    return session.scalars(statement.order_by(Delivery.created_at.desc(), Delivery.id.desc()).limit(MAX_ROWS)).all()


@bp.get("")
@require_operator("support")
def index() -> Response:
    """Show pending deliveries by organization, and list endpoints."""
    query = lists.parse_query(EndpointListQuery())
    if query["delivery"]:
        response: Response = pages.redirect_to("admin.webhooks.show_delivery", delivery_id=query["delivery"])
        return response
    with context.read_session() as session:
        page, backlog = list_endpoints(session, query), list_backlog(session)
        names, counts = organizations.list_names(session), count_endpoints(session, query)
    if query["format"] == "csv":
        return lists.csv_export("webhook-endpoints", ENDPOINT_COLUMNS, page)
    return pages.render_page(
        "admin/webhooks/index.html",
        page=page,
        backlog=backlog,
        address=endpoints.redacted_url,
        names=names,
        counts=counts,
    )


@bp.get('/endpoints/<id("whe"):endpoint_id>')
@require_operator("support")
def show_endpoint(endpoint_id: UUID) -> Response:
    """Show an endpoint and its deliveries."""
    query = lists.parse_query(DeliveryListQuery())
    with context.read_session() as session:
        detail = get_endpoint(session, endpoint_id)
        page = list_endpoint_deliveries(session, detail.endpoint, query)
    if query["format"] == "csv":
        return lists.csv_export("webhook-deliveries", DELIVERY_COLUMNS, page)
    return pages.render_page(
        "admin/webhooks/endpoint.html",
        detail=detail,
        page=page,
        statuses=list(DeliveryState),
        response_label=labels.response_label,
    )


@bp.get('/<id("whd"):delivery_id>')
@require_operator("support")
def show_delivery(delivery_id: UUID) -> Response:
    """Show a delivery with its attempts."""
    with context.read_session() as session:
        detail = get_delivery(session, delivery_id)
        deliveries_of_event = list_same_event_deliveries(session, detail.delivery)
    return pages.render_page(
        "admin/webhooks/show.html",
        detail=detail,
        deliveries_of_event=deliveries_of_event,
        response_label=labels.response_label,
    )


def set_endpoint_enabled(
    operator: OperatorContext, organization_id: UUID, endpoint_id: UUID, *, is_enabled: bool
) -> None:
    """Enables or disables an endpoint.

    raises: as `endpoints.update_endpoint`
    """
    with context.write_session() as session:
        endpoints.update_endpoint(
            session,
            _principal(organization_id),
            endpoint_id,
            {"is_enabled": is_enabled},
            reason=operator.reason,
        )


def resend_delivery(operator: OperatorContext, organization_id: UUID, delivery_id: UUID) -> Delivery:
    """Sends the event of a delivery to its endpoint once more, as a new delivery.

    raises: as `deliveries.resend_delivery`
    """
    with context.write_session() as session:
        return deliveries.resend_delivery(session, _principal(organization_id), delivery_id, reason=operator.reason)


def preview_resend(detail: EndpointDetail, form: Form | None) -> Preview:
    """The picked deliveries of an endpoint; without any there is nothing to confirm."""
    texts = form.value("ids") if form else request.args.getlist("ids")[:MAX_ROWS]
    delivery_ids = [ids.parse_id("whd", text) for text in texts if ids.is_public_id(text, "whd")]
    with context.read_session() as session:
        views = deliveries.list_delivery_views(session, detail.endpoint.organization_id, delivery_ids)
    picked = [view for view in views if view.delivery.endpoint_id == detail.endpoint.id]
    return Preview(picked, is_ready=bool(picked))


def resend_deliveries(
    operator: OperatorContext, organization_id: UUID, _endpoint_id: UUID, *, delivery_ids: Sequence[UUID]
) -> ResentDeliveries:
    """Sends the events of several deliveries once more, each to its endpoint."""
    with context.write_session() as session:
        principal = _principal(organization_id)
        return deliveries.resend_deliveries(session, principal, delivery_ids, reason=operator.reason)


def resent_notice(_detail: EndpointDetail, resent: ResentDeliveries) -> str:
    """What the page says after `resend_deliveries`."""
    reason = "the endpoint is disabled or deleted"
    return templating.bulk_notice(resent.count, len(resent.skipped), "resent", reason, "delivery", "deliveries")


def _principal(organization_id: UUID) -> Principal:
    """The operator, without a role in the organization they act on."""
    return replace(g.principal, organization_id=organization_id, role=None)


ACTIONS = (
    Action(
        "disable",
        "endpoint",
        "Disable endpoint",
        lambda detail: (
            "The endpoint no longer receives events. Disabling it cancels "
            f"{templating.pluralize(detail.health.waiting, 'pending delivery', 'pending deliveries')}. The "
            "organization can enable it again."
        ),
        "Disable endpoint",
        "Endpoint disabled.",
        functools.partial(set_endpoint_enabled, is_enabled=False),
        button_style="danger",
    ),
    Action(
        "enable",
        "endpoint",
        "Enable endpoint",
        "The endpoint receives new events again and its failure count is reset. Missed events aren't sent. The "
        "organization can replay them.",
        "Enable endpoint",
        "Endpoint enabled.",
        functools.partial(set_endpoint_enabled, is_enabled=True),
    ),
    Action(
        "resend",
        "endpoint",
        "Resend deliveries",
        "Sends their events to the endpoint again, each once, as new deliveries with the same event IDs.",
        "Resend deliveries",
        resent_notice,
        resend_deliveries,
        ResendDeliveriesForm,
        role="support",
        is_idempotent=True,
        preview=preview_resend,
    ),
    Action(
        "resend",
        "delivery",
        "Resend event",
        "Sends the event to the same endpoint again, as a new delivery with the same event ID. Receivers can use the "
        "ID to detect duplicates.",
        "Resend event",
        "Event resent. This is the new delivery.",
        resend_delivery,
        role="support",
        is_idempotent=True,
        next_page=lambda delivery: url_for("admin.webhooks.show_delivery", delivery_id=delivery.id),
    ),
)
