"""An SMTP server on a free local port, with replies that a test chooses."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.certificates import create_certificate


class Received:
    """Received mails, and the replies to send."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.connections: set[Any] = set()
        self.recipients: list[str] = []
        self.to_recipient = "250 OK"
        self.to_content = "250 OK"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        self.connections.add(session.peer)
        if self.to_recipient.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.to_recipient

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - the same
        if self.to_content.startswith("250"):
            assert isinstance(envelope.content, bytes)
            self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
            self.recipients += envelope.rcpt_tos
        return self.to_content


@contextmanager
def listening(received: Received, **options: Any) -> Iterator[int]:
    """Run the server during the block; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    controller = Controller(received, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


def create_tls_context(directory: Path) -> tuple[Path, SSLContext]:
    """Create a certificate for localhost and return its path and the TLS context of a server with it."""
    certificate, key = create_certificate(directory)
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context


def only_ann(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
    is_known = isinstance(data, LoginPassword) and (data.login, data.password) == (b"ann", b"right")
    return AuthResult(success=is_known, handled=is_known)
