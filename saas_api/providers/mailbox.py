"""The mailbox that stands in for SMTP: every mail is a file in `instance/mail/`; people read them at `/ops/mail`."""

import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from uuid import UUID

from saas_api.core.settings import setting
from saas_api.providers import Letter, Outcome
from saas_api.providers.letters import compose

_LINK = re.compile(r"https?://[^\s<>\"]+")


@dataclass(frozen=True)
class Kept:
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


class Mailbox:
    """Takes every mail, and sends none."""

    def deliver(self, letters: Sequence[Letter]) -> Generator[tuple[Letter, Outcome], None, None]:
        """Write each into its file; a mail that comes twice is there once."""
        for letter in letters:
            try:
                _keep(letter)
            except ValueError:
                yield letter, Outcome("rejected", "unsendable")
            except OSError:
                yield letter, Outcome("retry", "provider_unavailable")
            else:
                yield letter, Outcome("sent", reference=letter.id.hex)


def newest() -> Iterator[Kept]:
    """Every mail, the newest first."""
    for path in sorted(_directory().glob("*.eml"), reverse=True):  # ids begin with their time
        yield _read(path)


def find(mail_id: UUID) -> Kept | None:
    """One mail."""
    path = _path(mail_id)
    return _read(path) if path.exists() else None


def _directory() -> Path:
    return Path(setting("INSTANCE")) / "mail"


def _path(mail_id: UUID) -> Path:
    return _directory() / f"{mail_id.hex}.eml"


def _keep(letter: Letter) -> None:
    content = compose(letter).as_bytes(policy=policy.default)
    path = _path(letter.id)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.touch(mode=0o600)
    draft.write_bytes(content)
    draft.replace(path)


def _read(path: Path) -> Kept:
    message = message_from_bytes(path.read_bytes(), policy=policy.default)
    text = _part(message, "plain")
    return Kept(
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
