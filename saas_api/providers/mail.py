"""OutboundEmail, EmailProvider, build_mime_message."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Protocol
from urllib.parse import urlsplit
from uuid import UUID

from saas_api.core.settings import setting
from saas_api.providers.messages import SendResult


@dataclass(frozen=True)
class OutboundEmail:
    """One of the platform's own mails to hand over; one id is one Message-ID, however often it is sent."""

    id: UUID
    recipient: str
    subject: str
    text: str
    html: str
    written_at: datetime


class EmailProvider(Protocol):
    """Carries the platform's own mail."""

    def deliver(self, letters: Sequence[OutboundEmail]) -> Generator[tuple[OutboundEmail, SendResult], None, None]:
        """Hand mails over one by one; closing it ends the connection."""


def build_mime_message(letter: OutboundEmail) -> EmailMessage:
    """The mail with all its headers, text first and HTML beside it.

    raises: ValueError for an address or subject that fits no header
    """
    message = EmailMessage()
    message["From"] = setting("SMTP_FROM")
    message["To"] = letter.recipient
    message["Subject"] = letter.subject
    message["Date"] = format_datetime(letter.written_at)
    message["Message-ID"] = f"<{letter.id.hex}@{urlsplit(setting('APP_URL')).hostname}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.text)
    message.add_alternative(letter.html, subtype="html")
    return message
