"""Requests that are recorded in the log, as if keys had sent them."""

from typing import Any
from uuid import UUID

from saas_api.core import ids, request_context
from saas_api.core.access import Principal
from saas_api.usage import request_recorder
from saas_api.usage.request_recorder import RequestDetails
from tests.support.accounts import User

ROUTE = "/api/v1/messages/send"


def record_request(
    user: User, status: int, *, request_id: str = "", key: str = "", mode: str = "live", **details: Any
) -> str:
    """Record a request of a key of the user's organization.

    key: public id; any for none
    details: as of RequestDetails
    returns: id of the request
    """
    request_id = request_id or f"req_{ids.new_id().hex[-24:]}"
    key_id = ids.parse_id("key", key) if key else UUID(int=1)
    caller = Principal("key", key_id, ids.parse_id("org", user.organization_id), mode=mode)
    with user.client.application.app_context():
        request_context.begin_request(request_id, "203.0.113.9")
        request_recorder.record(caller, "POST", ROUTE, status, 1500, lambda: RequestDetails(**details))
        request_context.clear_context()
        request_recorder.flush()
    return request_id
