"""The API of verification."""

import functools
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, g

from saas_api.core.access import require_service
from saas_api.core.errors import ValidationFailed
from saas_api.core.web.endpoint import endpoint
from saas_api.metering import verification
from saas_api.metering.schemas import VerificationIn, VerificationOut
from saas_api.metering.verification import Verification, VerificationRequest
from saas_api.services import service_tokens

bp = Blueprint("metering", __name__)


@bp.post("/keys/verify")
@require_service(compares_generation=True)
@endpoint(
    operation_id="verify_key",
    tag="services",
    body=VerificationIn(),
    returns=VerificationOut(),
    errors=(ValidationFailed,),
)
def verify(body: Mapping[str, Any]) -> Verification:
    """Check a customer's API key, count the call against its limits, and record its usage, all or nothing.

    The answer is 200 whatever the key; `code` says why it is not valid. Name a meter to record usage, and
    `hold_seconds` to hold it instead.
    """
    fields = dict(body)
    meter, quantity, dimensions = (fields.pop(name) for name in ("meter", "quantity", "dimensions"))
    usage, unique_value = verification.build_usage(meter, quantity, dimensions) if meter else (None, None)
    if body["ip"] is not None:
        fields["ip"] = str(getattr(body["ip"], "ipv4_mapped", None) or body["ip"])
    request = VerificationRequest(usage=usage, unique_value=unique_value, **fields)
    return verification.verify(g.service.name, request, functools.partial(service_tokens.confirm, g.service))
