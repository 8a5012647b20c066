"""The interface of message providers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True)
class OutboundMessage:
    """A message to send.

    id: also the idempotency key: a provider that gets it twice delivers once
    attempt: from 1
    """

    id: UUID
    channel: str
    recipient: str
    subject: str | None
    body: str
    attempt: int


@dataclass(frozen=True)
class SendResult:
    """A provider's answer about one message or mail.

    kind: "delivered", "sent" (a receipt follows), "rejected" (final) or "retry"
    error_code: of a rejection or a failed attempt
    retry_after: seconds that the provider asks to wait
    """

    kind: str
    error_code: str | None = None
    reference: str | None = None
    retry_after: int | None = None


class MessageProvider(Protocol):
    """Sends messages of one or more channels."""

    def send_many(self, items: Sequence[OutboundMessage]) -> Iterator[list[tuple[OutboundMessage, SendResult]]]:
        """Send messages and yield their results in groups, as they become known."""
