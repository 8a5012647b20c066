"""With SMTP_HOST the mails leave: a real server receives them, refuses them, or is away."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.support import mail as post
from tests.support import smtp_server as receiver
from tests.support.smtp_server import Received

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@pytest.fixture
def use(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change the settings of mail for one test."""

    def change(port: int, security: str = "none", **others: Any) -> None:
        for name, value in {"HOST": "localhost", "PORT": port, "TLS": security, **others}.items():
            monkeypatch.setitem(app.config, f"SMTP_{name}", value)

    return change


@pytest.fixture
def server(use: Callable[..., None]) -> Iterator[Received]:
    received = Received()
    with receiver.listening(received) as port:
        use(port)
        yield received


def test_a_mail_arrives_with_both_its_parts_and_its_headers(
    app: Flask, server: Received, work: Callable[[], None]
) -> None:
    post.write(app, "ann@customer.example", "invitation", organization="Bäckerei Ünal")
    [(mail_id,)] = post.rows(app, "id")
    work()
    [mail] = server.mails
    assert server.recipients == ["ann@customer.example"]
    assert mail["To"] == "ann@customer.example"
    assert mail["From"] == "saas-api <no-reply@localhost>"
    assert mail["Subject"] == "Join Bäckerei Ünal on saas-api"
    assert mail["Message-ID"] == f"<{mail_id.hex}@localhost>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"].datetime.tzinfo is not None
    for kind in ("plain", "html"):
        part = mail.get_body((kind,))
        assert part is not None
        assert "/accept-invitation?token=t0ken-join" in part.get_content()
    assert post.rows(app, "status, attempts, text_body") == [("sent", 1, None)]
    assert post.received(app) == []


def test_a_batch_takes_one_connection(app: Flask, server: Received) -> None:
    for number in range(3):
        post.write(app, f"ann{number}@customer.example")
    post.turn(app)
    assert len(server.mails) == 3
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("to_recipient", "to_content", "state"),
    [
        ("550 no such person", "250 OK", ("failed", "invalid_recipient")),
        ("450 busy", "250 OK", ("queued", "provider_unavailable")),
        ("250 OK", "554 no", ("failed", "content_refused")),
        ("250 OK", "451 later", ("queued", "provider_unavailable")),
    ],
)
def test_what_the_server_answers_decides(
    app: Flask, server: Received, to_recipient: str, to_content: str, state: tuple[str, str]
) -> None:
    server.to_recipient, server.to_content = to_recipient, to_content
    post.write(app)
    post.turn(app)
    assert post.rows(app, "status, error_code") == [state]
    server.to_recipient = server.to_content = "250 OK"
    post.make_due(app)
    post.turn(app)
    assert len(server.mails) == (1 if state[0] == "queued" else 0)


def test_an_address_the_server_cannot_write_does_not_stop_the_next(app: Flask, use: Callable[..., None]) -> None:
    post.write(app, "ünal@customer.example")
    post.write(app, "ann@customer.example")
    received = Received()
    with receiver.listening(received, enable_SMTPUTF8=False) as port:
        use(port)
        post.turn(app)
    assert post.rows(app, "status, error_code") == [("failed", "unsupported_recipient"), ("sent", None)]


def test_an_address_in_any_script_is_reached(app: Flask, server: Received) -> None:
    post.write(app, "ünal@customer.example")
    post.turn(app)
    assert server.recipients == ["ünal@customer.example"]


def test_a_server_that_is_away_is_asked_once_and_again_later(app: Flask, use: Callable[..., None]) -> None:
    received = Received()
    with receiver.listening(received) as port:
        pass
    use(port)
    for number in range(3):
        post.write(app, f"ann{number}@customer.example")
    post.turn(app)
    assert post.rows(app) == [("queued", 1, "provider_unavailable")] * 3


def test_without_encryption_nothing_leaves_unless_the_settings_say_so(app: Flask, use: Callable[..., None]) -> None:
    received = Received()
    with receiver.listening(received) as port:
        use(port, "starttls")
        post.write(app)
        post.turn(app)
    assert received.mails == []
    assert post.rows(app) == [("queued", 1, "provider_unavailable")]


@needs_openssl
@pytest.mark.parametrize(("password", "status"), [("right", "sent"), ("wrong", "queued")])
def test_with_starttls_the_name_and_password_open_the_door(
    app: Flask, use: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str, status: str
) -> None:
    cert, context = receiver.certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    options = {
        "tls_context": context,
        "require_starttls": True,
        "auth_required": True,
        "auth_exclude_mechanism": ["LOGIN"],
    }
    received = Received()
    with receiver.listening(received, authenticator=receiver.only_ann, **options) as port:
        use(port, "starttls", USERNAME="ann", PASSWORD=password)
        post.write(app)
        post.turn(app)
    assert [row.status for row in post.rows(app)] == [status]
    assert len(received.mails) == (1 if status == "sent" else 0)


@needs_openssl
def test_a_server_whose_certificate_nobody_vouches_for_gets_nothing(
    app: Flask, use: Callable[..., None], tmp_path: Path
) -> None:
    _, context = receiver.certificate(tmp_path)
    received = Received()
    with receiver.listening(received, tls_context=context) as port:
        use(port, "starttls")
        post.write(app)
        post.turn(app)
    assert received.mails == []
    assert post.rows(app) == [("queued", 1, "provider_unavailable")]
