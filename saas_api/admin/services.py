"""Services outside this application: their tokens, calls, scopes, routes and OpenAPI documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from flask import Blueprint, Response
from marshmallow import fields, validate

from saas_api.accounts.audit import OperatorContext
from saas_api.admin import context
from saas_api.admin.context import Preview, ReasonForm
from saas_api.api_keys.schemas import NetworkField
from saas_api.core import document_reader
from saas_api.core.access import require_operator
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.document_reader import InvalidDocument
from saas_api.core.errors import ValidationFailed
from saas_api.core.fields import QueryInteger, Text
from saas_api.core.web import pages
from saas_api.core.web.forms import Form
from saas_api.services import routes, scopes, service_calls, services
from saas_api.services.models import Service, ServiceToken
from saas_api.services.route_file import RouteTable
from saas_api.services.service_calls import CallStatistics
from saas_api.services.services import MAX_GRACE_SECONDS, IssuedToken

bp = Blueprint("services", __name__)

DAY, MONTH = timedelta(hours=24), timedelta(days=30)


@dataclass(frozen=True)
class ServiceRow:
    """A service in the list, with its calls of the last 24 hours."""

    service: Service
    calls: CallStatistics | None


@dataclass(frozen=True)
class OperatorServiceDetail:
    """A service as its page shows it.

    tokens: valid ones, the newest first
    calls: of the last 30 days, by operation and code
    recent_calls: number of calls of the last 24 hours, by operation and code
    day, month: all calls of the last 24 hours and of the last 30 days
    """

    service: Service
    tokens: Sequence[ServiceToken]
    scopes: Sequence[str]
    table: RouteTable
    calls: Sequence[CallStatistics]
    recent_calls: Mapping[tuple[str, str], int]
    day: CallStatistics | None
    month: CallStatistics | None

    @property
    def name(self) -> str:
        """Name of the service."""
        return self.service.name


def list_services(session: SystemSession) -> list[ServiceRow]:
    """Every service, by name, the revoked ones last."""
    totals = service_calls.read_totals(session, DAY)
    listed = sorted(services.list_services(session), key=lambda service: service.revoked_at is not None)
    return [ServiceRow(service, totals.get(service.id)) for service in listed]


def get_service_detail(session: SystemSession, name: str) -> OperatorServiceDetail:
    """A service with its tokens, routes and calls.

    raises: ServiceNotFound
    """
    service = services.get_service(session, name)
    table = routes.get_table(session, service)
    permissions = {route.permission for route in table.routes if route.permission}
    recent = service_calls.read_calls(session, service.id, DAY)
    calls = service_calls.read_calls(session, service.id, MONTH)
    return OperatorServiceDetail(
        service,
        services.list_active_tokens(session, service.id) if service.revoked_at is None else [],
        scopes.scopes_of(service.name, {*service.scopes, *permissions}),
        table,
        calls,
        {(row.operation, row.code): row.calls for row in recent},
        service_calls.sum_calls(recent),
        service_calls.sum_calls(calls),
    )


class CreateServiceForm(ReasonForm):
    """A new service."""

    name = Text(maximum=40, required=True)
    allowed_ips = fields.List(
        NetworkField(),
        load_default=list,
        validate=validate.Length(max=50),
        metadata={"metavar": "NET", "help": "Accept its tokens from this network only; from all addresses without it."},
    )
    scopes = fields.List(
        Text(maximum=81),
        load_default=list,
        metadata={
            "metavar": "SCOPE",
            "help": "Additional scope that API keys can have, besides NAME:read and NAME:write.",
        },
    )


class RotateTokenForm(ReasonForm):
    """How long the old token of a service stays valid."""

    grace_seconds = QueryInteger(
        minimum=0,
        maximum=MAX_GRACE_SECONDS,
        load_default=None,
        metadata={
            "option": "--grace",
            "metavar": "SECONDS",
            "help": f"Keep the old token valid this long, at most {MAX_GRACE_SECONDS}; without it, revoke it now.",
        },
    )


class PortalOriginsForm(ReasonForm):
    """Origins that may embed the customer portal; none without any."""

    origins = fields.List(
        Text(maximum=300),
        load_default=list,
        metadata={"metavar": "ORIGIN", "help": "Let pages of this origin embed the portal, and links lead back to it."},
    )


class OpenApiForm(ReasonForm):
    """An OpenAPI document as text; none removes it."""

    document = Text(maximum=600_000, multiline=True, load_default=None, metadata={"help": "The document (JSON)."})


def preview_rotation(_detail: OperatorServiceDetail, _form: Form | None) -> Preview:
    """The form of a rotation, in which the old token goes on for a day."""
    return Preview(values={"grace_seconds": "86400"})


def preview_portal(detail: OperatorServiceDetail, _form: Form | None) -> Preview:
    """The form with the origins that are listed now."""
    return Preview(values={"origins": "\n".join(detail.service.portal_origins)})


def rotate_token(
    session: SystemSession, name: str, operator: OperatorContext, *, grace_seconds: int | None
) -> IssuedToken:
    """Give a service a new token; raises as `services.rotate_token`."""
    return services.rotate_token(session, name, operator, grace_seconds or 0)


def set_openapi(session: SystemSession, name: str, operator: OperatorContext, *, document: str | None) -> Service:
    """Set or remove the OpenAPI document of a service.

    raises: as `services.set_openapi`; ValidationFailed for text that is not JSON
    """
    try:
        parsed = None if document is None else document_reader.parse_json(document)
    except InvalidDocument as error:
        raise ValidationFailed.at_field("document", f"This is {error.problems[0][1]}") from error
    return services.set_openapi(session, name, operator, parsed)


def show_token(issued: IssuedToken) -> Response:
    """The page that shows a new token, once."""
    return pages.render_page("admin/services/token.html", issued=issued, is_secret=True)


@bp.get("/admin/services")
@require_operator("support")
def index() -> Response:
    """List every service."""
    with context.read_session() as session:
        rows = list_services(session)
    return pages.render_page("admin/services/index.html", rows=rows)


@bp.get("/admin/services/<name>")
@require_operator("support")
def show(name: str) -> Response:
    """Show a service with its tokens, calls, scopes and routes."""
    with context.read_session() as session:
        detail = get_service_detail(session, name)
    return pages.render_page("admin/services/show.html", detail=detail)
