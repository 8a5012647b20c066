"""Records what operators look at: pages of one organization's data, searches, and exports."""

from typing import Any

from flask import Response, g, request

from saas_api.accounts import audit
from saas_api.admin import context
from saas_api.api_keys import key_format
from saas_api.services import token_format

TARGET_TYPES = {
    "grant_id": "credit_grant",
    "organization_id": "organization",
    "invoice_id": "invoice",
    "payment_id": "payment",
    "refund_id": "refund",
    "event_id": "provider_event",
    "endpoint_id": "webhook_endpoint",
    "delivery_id": "webhook_delivery",
    "user_id": "user",
    "key_id": "api_key",
    "mail_id": "mail",
}
"""Type of the target by the argument of the URL that identifies it."""
_NOT_FILTERS = ("limit", "cursor", "format", "reason")


def record_read(response: Response) -> Response:
    """Record the page or file that a request got, in a transaction of its own; without it the request fails.

    Lists without a filter, and pages that show no organization's data, are not recorded.
    """
    if request.method != "GET" or response.status_code != 200:
        return response
    filters = {name: _mask(value) for name, value in request.args.items() if value and name not in _NOT_FILTERS}
    target = _find_target()
    is_export = response.mimetype == "text/csv"
    if target is None and not filters and not is_export:
        return response
    data: dict[str, Any] = {"page": request.path, "filters": filters}
    if target and target[0] == "organization":
        data["organization"] = target[1]
    if is_export:
        data["reason"] = request.args["reason"].strip()
    with context.write_session() as session:
        actor, action = context.current_operator(g.principal), f"console.{'exported' if is_export else 'viewed'}"
        audit.record_event(session, None, actor, action, target or ("page", request.endpoint), data)
    return response


def _mask(value: str) -> str:
    """The value; of an API key or service token the part that recognizes it."""
    text = value.strip()
    if token_format.is_service_token(text):
        return token_format.token_hint(text)
    return key_format.key_hint(text) if key_format.has_key_prefix(text) else value


def _find_target() -> tuple[str, str] | None:
    for argument, value in (request.view_args or {}).items():
        if argument in TARGET_TYPES:
            return TARGET_TYPES[argument], str(value)
    return None
