"""The API of messages."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

from flask import Blueprint, g

from saas_api.accounts import organizations
from saas_api.core import clock, fields, time_zones
from saas_api.core.access import Principal, require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.errors import PaymentRequired, ServiceUnavailable, TooManyRequests, ValidationFailed
from saas_api.core.web.endpoint import endpoint
from saas_api.messages import common_message, messages
from saas_api.messages.messages import MessageFilter, MessageNotCancelable, MessageNotFound, NoMessageProvider
from saas_api.messages.schemas import (
    AcceptedMessageOut,
    CanceledMessagesOut,
    CancelMessagesIn,
    MessageIn,
    MessageOut,
    MessagesQuery,
)
from saas_api.metering.metered_endpoints import metered
from saas_api.usage import ranges
from saas_api.usage.ranges import InvalidDateRange

bp = Blueprint("messages", __name__)


@bp.post("/send")
@metered(
    messages.get_meter,
    permission="messages:write",
    quantity=messages.count_units,
    is_batch=True,
)
@endpoint(
    operation_id="send_message",
    tag="messages",
    body=MessageIn(),
    returns=AcceptedMessageOut(),
    load_common=common_message.load,
    dump_common=common_message.dump,
    status=202,
    errors=(PaymentRequired, TooManyRequests, ServiceUnavailable, NoMessageProvider),
    has_long_text=True,
)
def send(body: Mapping[str, Any]) -> Any:
    """Send a mock SMS or email. It is accepted at once and delivered within seconds."""
    return messages.accept_message(g.principal, body)


@bp.get('/<id("msg"):message_id>')
@require_permission("messages:read")
@endpoint(operation_id="get_message", tag="messages", returns=MessageOut(), errors=(MessageNotFound,))
def show(message_id: UUID) -> Any:
    """Get a message."""
    return messages.get_message(engine.session(), g.principal, message_id)


@bp.post('/<id("msg"):message_id>/cancel')
@require_permission("messages:cancel", scope="messages:write")
@endpoint(
    operation_id="cancel_message",
    tag="messages",
    returns=MessageOut(),
    errors=(MessageNotFound, MessageNotCancelable),
)
def cancel(message_id: UUID) -> Any:
    """Cancel a message that was not sent yet, and reverse its usage."""
    return messages.cancel_message(engine.session(), g.principal, message_id)


@bp.post("/cancel")
@require_permission("messages:cancel", scope="messages:write")
@endpoint(operation_id="cancel_messages", tag="messages", body=CancelMessagesIn(), returns=CanceledMessagesOut())
def cancel_many(body: dict[str, Any]) -> Any:
    """Cancel up to 100 messages: those that were not sent yet. Their usage is reversed."""
    return messages.cancel_messages(engine.session(), g.principal, body["message_ids"])


@bp.get("")
@require_permission("messages:read")
@endpoint(
    operation_id="list_messages",
    tag="messages",
    reads_replica=True,
    query=MessagesQuery(),
    returns=fields.page_schema("messages", MessageOut()),
    errors=(ValidationFailed,),
)
def list_messages(query: dict[str, Any]) -> Any:
    """List messages, newest first. A key lists those of its own mode."""
    principal: Principal = g.principal
    request, query = PageRequest.from_query(query)
    mode = query["mode"]
    if principal.kind == "key":
        if mode not in (None, principal.mode):
            raise ValidationFailed.at_field("mode", f"This key sees the messages of {principal.mode} mode.")
        mode = principal.mode
    since, until = _date_range(principal.organization_id, query["start_date"], query["end_date"])
    filters = MessageFilter(query["status"], query["type"], mode, query["to"], since=since, until=until)
    return messages.list_messages(engine.session(), principal.organization_id, filters, request)


def _date_range(
    organization_id: UUID, start: date | None, end: date | None
) -> tuple[datetime, datetime] | tuple[None, None]:
    """First instant of a range of days in the organization's time zone, and the first one after it."""
    if not start and not end:
        return None, None
    zone = time_zones.get_zone(organizations.get_organization(engine.session(), organization_id).timezone)
    try:
        days = ranges.parse_date_range(start, end, clock.now().astimezone(zone).date(), zone)
    except InvalidDateRange as cause:
        raise ValidationFailed.at_field(cause.field, cause.reason) from cause
    return days.starts_at, days.ends_at
