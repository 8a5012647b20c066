"""OutboundMessage, SendResult, MessageProvider."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True)
class OutboundMessage:
    """One message to hand over.

    id: also the outside's key: whoever sees it twice delivers once
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
    """What became of a message.

    kind: "delivered", "sent" (a receipt follows), "rejected" (for good) or "retry"
    error_code: of a rejection or of the last try
    retry_after: seconds the outside asked to wait
    """

    kind: str
    error_code: str | None = None
    reference: str | None = None
    retry_after: int | None = None


class MessageProvider(Protocol):
    """Carries messages of one or more channels."""

    def send_many(self, items: Sequence[OutboundMessage]) -> Iterator[list[tuple[OutboundMessage, SendResult]]]:
        """Hand messages over; results come in groups, as they become known."""
