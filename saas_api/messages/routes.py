"""The door to messages."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Blueprint, g

from saas_api.core import clock
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import Invalid, PaymentRequired, TooManyRequests, Unavailable
from saas_api.core.http import endpoint, page_of
from saas_api.messages import queries
from saas_api.messages import service as messages
from saas_api.messages.schemas import AcceptedOut, MessageOut, MessagesQuery, SendIn
from saas_api.organizations import service as organizations
from saas_api.usage.rules import BadRange, read_days

bp = Blueprint("messages", __name__)


@bp.post("/send")
@require("messages:write")
@endpoint(
    operation_id="send_message",
    tag="messages",
    body=SendIn(),
    returns=AcceptedOut(),
    status=202,
    errors=(PaymentRequired, TooManyRequests, Unavailable),
    units=messages.units_of,
)
def send(body: Mapping[str, Any]) -> Any:
    """Send a mock SMS or e-mail: accepted now, delivered within seconds."""
    return messages.accept(g.principal, g.principal.terms, body, g.once, is_told=g.principal.is_told)


@bp.get('/<id("msg"):message_id>')
@require("messages:read")
@endpoint(operation_id="get_message", tag="messages", returns=MessageOut(), errors=(messages.NoSuchMessage,))
def show(message_id: UUID) -> Any:
    """Show a message as it stands."""
    return messages.get(session(), g.principal, message_id)


@bp.post('/<id("msg"):message_id>/cancel')
@require("messages:cancel", scope="messages:write")
@endpoint(
    operation_id="cancel_message",
    tag="messages",
    returns=MessageOut(),
    errors=(messages.NoSuchMessage, messages.NotCancelable),
)
def cancel(message_id: UUID) -> Any:
    """Cancel a message that has not left yet; its usage is taken back."""
    return messages.cancel(session(), g.principal, message_id)


@bp.get("")
@require("messages:read")
@endpoint(
    operation_id="list_messages",
    tag="messages",
    query=MessagesQuery(),
    returns=page_of("messages", MessageOut()),
    errors=(Invalid,),
)
def list_messages(query: dict[str, Any]) -> Any:
    """List messages, newest first; a key sees those of its own mode."""
    principal = g.principal
    if principal.kind == "key":
        if query["mode"] not in (None, principal.mode):
            raise Invalid.at("mode", f"This key sees the messages of {principal.mode} mode.")
        query["mode"] = principal.mode
    since, until = None, None
    if query["start_date"] or query["end_date"]:
        zone = clock.zone(organizations.get(session(), principal.organization_id).timezone)
        try:
            days = read_days(query["start_date"], query["end_date"], clock.now().astimezone(zone).date(), zone)
        except BadRange as cause:
            raise Invalid.at(cause.field, cause.reason) from cause
        since, until = days.starts_at, days.ends_at
    return queries.page(session(), principal.organization_id, query, since, until)
