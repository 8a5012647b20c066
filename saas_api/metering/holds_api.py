"""The API of holds, for services."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Blueprint, g

from saas_api.accounts.organizations import OrganizationNotFound
from saas_api.core.access import InsufficientScope, require_service
from saas_api.core.errors import ValidationFailed
from saas_api.core.web.endpoint import endpoint
from saas_api.metering import hold_requests, holds
from saas_api.metering.hold_requests import CustomerKeyNotFound, HoldRequest, RateLimited
from saas_api.metering.hold_schemas import HoldIn, HoldOut, SettleIn
from saas_api.metering.holds import HoldEnded, HoldNotFound
from saas_api.metering.refusals import (
    IpNotAllowed,
    OrganizationSuspended,
    QuotaExceeded,
    SpendCapReached,
    SubscriptionRestricted,
)
from saas_api.services.service_tokens import InvalidServiceToken
from saas_api.usage import meters
from saas_api.usage.meter_file import MeterContent
from saas_api.usage.meters import InvalidQuantity, MissingProperty

bp = Blueprint("holds", __name__)

_REFUSALS = (
    CustomerKeyNotFound,
    OrganizationNotFound,
    InsufficientScope,
    IpNotAllowed,
    OrganizationSuspended,
    SubscriptionRestricted,
    RateLimited,
    QuotaExceeded,
    SpendCapReached,
)


@bp.post("/holds")
@require_service()
@endpoint(
    operation_id="create_hold",
    tag="services",
    body=HoldIn(),
    returns=HoldOut(),
    status=201,
    errors=(InvalidServiceToken, InvalidQuantity, *_REFUSALS),
)
def create(body: Mapping[str, Any]) -> Any:
    """Hold a quantity of a meter before it is used. It counts against quota and spend cap like usage until it ends."""
    meter = _get_meter(body["meter"])
    ip = body["ip"] and str(getattr(body["ip"], "ipv4_mapped", None) or body["ip"])
    request = HoldRequest(**{**body, "meter": meter, "ip": ip})
    return hold_requests.request_hold(g.service.name, request)


@bp.get('/holds/<id("hld"):hold_id>')
@require_service()
@endpoint(operation_id="get_hold", tag="services", returns=HoldOut(), errors=(InvalidServiceToken, HoldNotFound))
def show(hold_id: UUID) -> Any:
    """Get a hold."""
    return holds.get_hold(g.service.name, hold_id)


@bp.post('/holds/<id("hld"):hold_id>/settle')
@require_service()
@endpoint(
    operation_id="settle_hold",
    tag="services",
    body=SettleIn(),
    returns=HoldOut(),
    errors=(InvalidServiceToken, HoldNotFound, HoldEnded, InvalidQuantity, MissingProperty),
)
def settle(hold_id: UUID, body: Mapping[str, Any]) -> Any:
    """Record what was really used, also beyond the hold, and end the hold. The same request again changes nothing."""
    return holds.settle_hold(g.service.name, hold_id, body["quantity"], {**body["dimensions"], **body["properties"]})


@bp.post('/holds/<id("hld"):hold_id>/release')
@require_service()
@endpoint(
    operation_id="release_hold",
    tag="services",
    returns=HoldOut(),
    errors=(InvalidServiceToken, HoldNotFound, HoldEnded),
)
def release(hold_id: UUID) -> Any:
    """End a hold without usage. The same request again changes nothing."""
    return holds.release_hold(g.service.name, hold_id)


def _get_meter(code: str) -> MeterContent:
    meter = meters.cached_meters(g.service.generation).get(code)
    if meter is None:
        raise ValidationFailed.at_field("meter", "There is no such meter.")
    return meter
