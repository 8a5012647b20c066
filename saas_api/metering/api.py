"""The API of verification."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from flask import Blueprint, g

from saas_api.core.access import require_service
from saas_api.core.errors import ValidationFailed
from saas_api.core.web.endpoint import endpoint
from saas_api.metering import common_verification, holds, verification
from saas_api.metering.schemas import VerificationIn, VerificationOut
from saas_api.metering.verification import Verification, VerificationRequest
from saas_api.services import service_tokens
from saas_api.services.service_tokens import ServicePrincipal

bp = Blueprint("metering", __name__)


@bp.post("/keys/verify")
@require_service(compares_generation=True)
@endpoint(
    operation_id="verify_key",
    tag="services",
    body=VerificationIn(),
    returns=VerificationOut(),
    load_common=common_verification.load,
    dump_common=common_verification.dump,
    errors=(ValidationFailed,),
)
def verify(body: Mapping[str, Any]) -> Verification:
    """Check a customer's API key, count the call against its limits, and record its usage, all or nothing.

    The answer is 200 whatever the key; `code` says why it is not valid. Name a meter to record usage, and
    `hold_seconds` to hold it instead.
    """
    fields = dict(body)
    meter, quantity, dimensions = (fields.pop(name) for name in ("meter", "quantity", "dimensions"))
    if body["ip"] is not None:
        fields["ip"] = str(getattr(body["ip"], "ipv4_mapped", None) or body["ip"])

    def answer_with(service: ServicePrincipal) -> Verification:
        usage, unique_value = None, None
        if meter is not None and body["hold_seconds"] is not None:
            held = verification.get_meter(service.generation, meter)
            usage = holds.held_usage(held, Decimal(1) if quantity is None else quantity, dimensions)
        elif meter is not None:
            usage, unique_value = verification.build_usage(service.generation, meter, quantity, dimensions)
        return verification.verify(service, VerificationRequest(usage=usage, unique_value=unique_value, **fields))

    answer = service_tokens.run_with_current_catalogue(g.service, answer_with)
    g.service_call_code = answer.code
    return answer
