"""Files that mails carry: a mail stores which, and the domain that owns the file renders it when the mail is sent."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from saas_api.providers.mail import AttachedFile

MAX_ATTACHMENT_BYTES = 5_000_000

Renderer = Callable[[UUID, UUID], AttachedFile]
_renderers: dict[str, Renderer] = {}


class AttachmentTooLarge(Exception):
    """The file is larger than MAX_ATTACHMENT_BYTES."""


@dataclass(frozen=True)
class Attachment:
    """A file of the organization that the mail belongs to.

    kind: of the file, as registered: "invoice"
    id: of what it shows
    """

    kind: str
    id: UUID

    def to_json(self) -> dict[str, str]:
        """Return the form in which a mail stores it."""
        return {"kind": self.kind, "id": str(self.id)}


def register(kind: str) -> Callable[[Renderer], Renderer]:
    """Declare the function that renders files of a kind; it is called with the organization and the id."""

    def add(render: Renderer) -> Renderer:
        _renderers[kind] = render
        return render

    return add


def render(organization_id: UUID, stored: dict[str, Any]) -> AttachedFile:
    """Render the file of a mail.

    stored: of `Attachment.to_json`
    raises: AttachmentTooLarge, and whatever the renderer raises
    """
    file = _renderers[stored["kind"]](organization_id, UUID(stored["id"]))
    if len(file.content) > MAX_ATTACHMENT_BYTES:
        raise AttachmentTooLarge(f"{file.name} has {len(file.content):,} bytes")
    return file
