"""The API of the log of requests."""

from typing import Any

from flask import Blueprint, g

from saas_api.accounts import organizations
from saas_api.core import fields
from saas_api.core.access import KeyMode, Principal, require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.errors import ValidationFailed
from saas_api.core.web.endpoint import endpoint
from saas_api.usage import request_log
from saas_api.usage.request_log import RequestNotFound
from saas_api.usage.schemas import LoggedRequestOut, RequestsQuery

bp = Blueprint("requests", __name__)


@bp.get("/requests")
@require_permission("usage:read")
@endpoint(
    operation_id="list_requests",
    tag="requests",
    reads_replica=True,
    query=RequestsQuery(),
    returns=fields.page_schema("requests", LoggedRequestOut()),
    errors=(ValidationFailed,),
)
def list_requests(query: dict[str, Any]) -> Any:
    """List logged requests, newest first: every error and a sample of the others. A key lists those of its own mode."""
    page_request, filters = PageRequest.from_query(query)
    mode = _visible_mode(g.principal)
    if mode is not None and filters["mode"] not in (None, mode):
        raise ValidationFailed.at_field("mode", f"This key sees the requests of {mode} mode.")
    organization = organizations.get_organization(engine.session(), g.principal.organization_id)
    wanted = request_log.parse_filter({**filters, "mode": mode or filters["mode"]}, organization.timezone)
    return request_log.list_requests(engine.session(), organization.id, wanted, page_request)


@bp.get("/requests/<request_id>")
@require_permission("usage:read")
@endpoint(
    operation_id="get_request",
    tag="requests",
    reads_replica=True,
    returns=LoggedRequestOut(),
    errors=(RequestNotFound,),
)
def show(request_id: str) -> Any:
    """Get a logged request, the newest with its ID. A key sees those of its own mode."""
    return request_log.get_request(
        engine.session(), g.principal.organization_id, request_id, mode=_visible_mode(g.principal)
    )


def _visible_mode(principal: Principal) -> str | None:
    """The mode whose requests a caller sees; None for both."""
    return KeyMode(principal.mode) if principal.kind == "key" else None
