"""Event types of messages, and the event of a change of status."""

from typing import Any

from saas_api.messages.models import MessageStatus
from saas_api.messages.schemas import MessageOut
from saas_api.webhooks import event_types
from saas_api.webhooks.events import EventSubject, NewEvent

_EXAMPLE = {
    "message_id": "msg_018f3c6a9d2e7a018b4c5d6e7f80aa01",
    "to": "+15005550006",
    "type": "sms",
    "subject": None,
    "status": "delivered",
    "segments": 1,
    "cost": "0.01",
    "currency": "USD",
    "mode": "live",
    "attempts": 1,
    "error_code": None,
    "created_at": "2026-03-02T09:00:00.000Z",
    "sent_at": "2026-03-02T09:00:01.000Z",
    "delivered_at": "2026-03-02T09:00:01.000Z",
}
_UNSENT: dict[str, Any] = {"sent_at": None, "delivered_at": None}

event_types.register(
    "message.accepted",
    schema=MessageOut,
    description="A message was accepted. Sent only to endpoints that name this type.",
    example={**_EXAMPLE, **_UNSENT, "status": "queued", "attempts": 0},
    is_explicit_only=True,
)
event_types.register(
    "message.sent",
    schema=MessageOut,
    description="The carrier or mail server took the message.",
    example={**_EXAMPLE, "status": "sent", "delivered_at": None},
)
event_types.register(
    "message.delivered", schema=MessageOut, description="The message reached its recipient.", example=_EXAMPLE
)
event_types.register(
    "message.failed",
    schema=MessageOut,
    description="The message will not be delivered; `error_code` says why.",
    example={**_EXAMPLE, **_UNSENT, "status": "failed", "error_code": "invalid_recipient"},
)
event_types.register(
    "message.canceled",
    schema=MessageOut,
    description="The message was canceled before it left.",
    example={**_EXAMPLE, **_UNSENT, "status": "canceled", "attempts": 0},
)


def status_event(message: Any) -> NewEvent:
    """The event of a message that has reached its status.

    message: a `Message`, or a row with the columns that `MessageOut` dumps
    """
    change = "accepted" if message.status == MessageStatus.QUEUED else message.status
    event_type = f"message.{change}"
    data = event_types.dump_data(event_type, message)
    return NewEvent(event_type, EventSubject(message.id, message.attempts), data, message.mode)
