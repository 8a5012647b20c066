"""A mailbox of files, used in place of SMTP in development and tests."""

import re
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from uuid import UUID

from saas_api.core import request_context
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.providers import mail
from saas_api.providers.mail import OutboundEmail
from saas_api.providers.messages import SendResult

log = get_logger(__name__)

_LINK = re.compile(r"https?://[^\s<>\"]+")


@dataclass(frozen=True)
class StoredEmail:
    """A mail in the mailbox.

    links: URLs in the text, in order
    attachments: names of the files that it carries
    """

    id: UUID
    recipient: str
    subject: str
    date: str
    text: str
    html: str
    links: tuple[str, ...]
    attachments: tuple[str, ...]


def is_open_to_client() -> bool:
    """Whether the client of this request may read the mailbox: on this machine, and not in production."""
    return setting("APP_ENV") != "production" and request_context.is_client_local()


def is_in_use_for_client() -> bool:
    """Whether mails are stored here instead of sent, and the client of this request may read them."""
    return not setting("SMTP_HOST") and is_open_to_client()


class FileMailbox:
    """A mail provider that stores mails and sends none."""

    def deliver(self, emails: Iterable[OutboundEmail]) -> Generator[tuple[OutboundEmail, SendResult], None, None]:
        """Write each mail into a file named after its id, so that a repeated mail is stored once."""
        for email in emails:
            try:
                _store(email)
            except ValueError:
                yield email, SendResult("rejected", "unsendable")
            except OSError as error:
                log.warning("mail_not_stored", reason=str(error), hint="set SMTP_HOST")
                yield email, SendResult("retry", "provider_unavailable")
            else:
                yield email, SendResult("sent", reference=email.id.hex)


def list_emails() -> Iterator[StoredEmail]:
    """Iterate over the mails, newest first."""
    for path in sorted(_directory().glob("*.eml"), reverse=True):  # an id begins with the time of its creation
        yield _read(path)


def find_email(mail_id: UUID) -> StoredEmail | None:
    """Return a mail, or None when the mailbox does not hold it."""
    path = _path(mail_id)
    return _read(path) if path.exists() else None


def _directory() -> Path:
    return Path(setting("INSTANCE")) / "mail"


def _path(mail_id: UUID) -> Path:
    return _directory() / f"{mail_id.hex}.eml"


def _store(email: OutboundEmail) -> None:
    content = mail.build_mime_message(email).as_bytes(policy=policy.default)
    path = _path(email.id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.touch(mode=0o600)
    draft.write_bytes(content)
    draft.replace(path)


def _read(path: Path) -> StoredEmail:
    message = message_from_bytes(path.read_bytes(), policy=policy.default)
    text = _part(message, "plain")
    return StoredEmail(
        id=UUID(hex=path.stem),
        recipient=str(message["To"]),
        subject=str(message["Subject"]),
        date=str(message["Date"]),
        text=text,
        html=_part(message, "html"),
        links=tuple(dict.fromkeys(_LINK.findall(text))),
        attachments=tuple(part.get_filename("") for part in message.iter_attachments()),
    )


def _part(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    return str(part.get_content()) if part else ""
