"""FileMailbox: the development substitute for SMTP."""

import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from uuid import UUID

from saas_api.core.settings import setting
from saas_api.providers import mail
from saas_api.providers.mail import OutboundEmail
from saas_api.providers.messages import SendResult

_LINK = re.compile(r"https?://[^\s<>\"]+")


@dataclass(frozen=True)
class StoredEmail:
    """A mail in the mailbox.

    links: every address its text names, in order
    """

    id: UUID
    recipient: str
    subject: str
    date: str
    text: str
    html: str
    links: tuple[str, ...]


class FileMailbox:
    """Takes every mail, and sends none."""

    def deliver(self, letters: Sequence[OutboundEmail]) -> Generator[tuple[OutboundEmail, SendResult], None, None]:
        """Write each into its file; a mail that comes twice is there once."""
        for letter in letters:
            try:
                _keep(letter)
            except ValueError:
                yield letter, SendResult("rejected", "unsendable")
            except OSError:
                yield letter, SendResult("retry", "provider_unavailable")
            else:
                yield letter, SendResult("sent", reference=letter.id.hex)


def list_emails() -> Iterator[StoredEmail]:
    """Every mail, the newest first."""
    for path in sorted(_directory().glob("*.eml"), reverse=True):  # ids begin with their time
        yield _read(path)


def find_email(mail_id: UUID) -> StoredEmail | None:
    """One mail."""
    path = _path(mail_id)
    return _read(path) if path.exists() else None


def _directory() -> Path:
    return Path(setting("INSTANCE")) / "mail"


def _path(mail_id: UUID) -> Path:
    return _directory() / f"{mail_id.hex}.eml"


def _keep(letter: OutboundEmail) -> None:
    content = mail.build_mime_message(letter).as_bytes(policy=policy.default)
    path = _path(letter.id)
    path.parent.mkdir(mode=0o700, exist_ok=True)
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
    )


def _part(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    return str(part.get_content()) if part else ""
