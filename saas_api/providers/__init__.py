"""The only way out to the street: who carries messages, and the platform's own mail."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from saas_api.core.domain import Domain
from saas_api.core.settings import setting

DOMAIN = Domain(name="providers", system_purposes=("providers.checkout", "providers.mock"))


@dataclass(frozen=True)
class Item:
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
class Outcome:
    """What became of a message.

    kind: "delivered", "sent" (a receipt follows), "rejected" (for good) or "retry"
    error_code: of a rejection or of the last try
    retry_after: seconds the outside asked to wait
    """

    kind: str
    error_code: str | None = None
    reference: str | None = None
    retry_after: int | None = None


class Provider(Protocol):
    """Carries messages of one or more channels."""

    def send_many(self, items: Sequence[Item]) -> Iterator[list[tuple[Item, Outcome]]]:
        """Hand messages over; results come in groups, as they become known."""


def carrier(channel: str, mode: str) -> Provider:
    """Who carries a channel; test mode never leaves the house.

    raises: LookupError for a channel nobody carries
    """
    from saas_api.providers import mock  # noqa: PLC0415 - a provider's libraries load on first use

    if channel not in mock.CHANNELS:
        raise LookupError(f"nobody carries {channel} in {mode} mode")
    return mock.Mock()


@dataclass(frozen=True)
class Letter:
    """One of the platform's own mails to hand over; one id is one Message-ID, however often it is sent."""

    id: UUID
    recipient: str
    subject: str
    text: str
    html: str
    written_at: datetime


class Mailer(Protocol):
    """Carries the platform's own mail."""

    def deliver(self, letters: Sequence[Letter]) -> Generator[tuple[Letter, Outcome], None, None]:
        """Hand mails over one by one; closing it ends the connection."""


def mailer() -> Mailer:
    """SMTP when the settings name a server, else the mailbox."""
    if setting("SMTP_HOST"):
        from saas_api.providers import smtp  # noqa: PLC0415 - a provider's libraries load on first use

        return smtp.Smtp()
    from saas_api.providers import mailbox  # noqa: PLC0415 - the same

    return mailbox.Mailbox()
