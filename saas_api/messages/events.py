"""Message.* events (MessageOut)."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from saas_api.core import ids
from saas_api.webhooks.events import EventSubject, NewEvent


@dataclass(frozen=True)
class MessageEventData:
    """A message as endpoints are told of it; its text is not among it.

    channel: "sms" or "email"
    attempts: calls of the provider that were answered
    """

    id: UUID
    channel: str
    recipient: str
    segments: int
    mode: str
    status: str
    attempts: int = 0
    error_code: str | None = None


def build_event_data(state: MessageEventData) -> dict[str, Any]:
    """The `data` of an event about a message."""
    return {
        "object": "message",
        "message_id": ids.format_id("msg", state.id),
        "to": state.recipient,
        "type": state.channel,
        "status": state.status,
        "segments": state.segments,
        "mode": state.mode,
        "attempts": state.attempts,
        "error_code": state.error_code,
    }


_EVENT_TYPE_BY_STATUS = {"queued": "accepted"}


def status_event(state: MessageEventData) -> NewEvent:
    """The event that a message has come into a state."""
    kind = f"message.{_EVENT_TYPE_BY_STATUS.get(state.status, state.status)}"
    return NewEvent(kind, EventSubject(state.id, state.attempts), build_event_data(state), state.mode)
