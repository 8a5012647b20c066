"""The interface of mail providers, and the MIME form of a mail."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Protocol
from urllib.parse import urlsplit
from uuid import UUID

from saas_api.core import brand
from saas_api.core.settings import setting
from saas_api.providers.messages import SendResult


@dataclass(frozen=True)
class AttachedFile:
    """A file that a mail carries.

    media_type: such as "application/pdf"
    """

    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True)
class OutboundEmail:
    """A mail to send. The id becomes the Message-ID, which stays the same when the mail is sent again."""

    id: UUID
    recipient: str
    subject: str
    text: str
    html: str
    written_at: datetime
    attachment: AttachedFile | None = None


class EmailProvider(Protocol):
    """Sends the platform's own mail."""

    def deliver(self, emails: Iterable[OutboundEmail]) -> Generator[tuple[OutboundEmail, SendResult], None, None]:
        """Send mails one by one and yield each with its result; closing the generator ends the connection."""


def build_mime_message(email: OutboundEmail) -> EmailMessage:
    """Build a multipart mail with its headers, plain text first.

    raises: ValueError for an address or subject that a header cannot hold
    """
    message = EmailMessage()
    message["From"] = setting("SMTP_FROM")
    message["To"] = email.recipient
    message["Subject"] = email.subject
    if support_email := brand.current_brand().support_email:
        message["Reply-To"] = support_email
    message["Date"] = format_datetime(email.written_at)
    message["Message-ID"] = f"<{email.id.hex}@{urlsplit(setting('APP_URL')).hostname}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(email.text)
    message.add_alternative(email.html, subtype="html")
    if email.attachment:
        kind, _, subtype = email.attachment.media_type.partition("/")
        message.add_attachment(email.attachment.content, kind, subtype, filename=email.attachment.name)
    return message
