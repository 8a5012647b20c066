"""The API of holds, for services."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Blueprint, g

from saas_api.accounts.organizations import OrganizationNotFound
from saas_api.core.access import InsufficientScope, require_service
from saas_api.core.web.endpoint import endpoint
from saas_api.metering import holds, verification
from saas_api.metering.hold_schemas import HoldIn, HoldOut, SettleIn
from saas_api.metering.holds import HoldEnded, HoldNotFound
from saas_api.metering.models import HoldStatus
from saas_api.metering.refusals import (
    CustomerKeyNotFound,
    IpNotAllowed,
    OrganizationSuspended,
    QuotaExceeded,
    RateLimited,
    SpendCapReached,
    SubscriptionRestricted,
)
from saas_api.metering.verification import Verification, VerificationRequest
from saas_api.services import service_tokens
from saas_api.services.service_tokens import InvalidServiceToken, ServicePrincipal
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
@require_service(compares_generation=True)
@endpoint(
    operation_id="create_hold",
    tag="services",
    body=HoldIn(),
    returns=HoldOut(),
    status=201,
    errors=(InvalidServiceToken, InvalidQuantity, HoldEnded, *_REFUSALS),
)
def create(body: Mapping[str, Any]) -> Any:
    """Hold a quantity of a meter before it is used. It counts against quota and spend cap like usage until it ends.

    Refused with the codes of the verification of a key, as 401, 402, 403 or 429.
    """
    fields = dict(body)
    meter, quantity, dimensions, seconds = (fields.pop(name) for name in ("meter", "quantity", "dimensions", "seconds"))
    if body["ip"] is not None:
        fields["ip"] = str(getattr(body["ip"], "ipv4_mapped", None) or body["ip"])

    def answer_with(service: ServicePrincipal) -> Verification:
        usage = holds.held_usage(verification.get_meter(service.generation, meter), quantity, dimensions)
        return verification.verify(service, VerificationRequest(usage=usage, hold_seconds=seconds, **fields))

    answer = service_tokens.run_with_current_catalogue(g.service, answer_with)
    if answer.refusal is not None:
        g.service_call_code = answer.code
        raise answer.refusal
    if answer.recorded is None or answer.recorded.hold is None:  # usage was recorded under the event_id before
        raise HoldEnded(details={"status": HoldStatus.SETTLED})
    return answer.recorded.hold


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
