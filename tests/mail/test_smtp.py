"""Mails through SMTP, to a server that receives them, rejects them, or is unreachable."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask

from tests.support import smtp_server
from tests.support.mail import deliver, enqueue_mail, mail_rows, make_mails_due, stored_emails
from tests.support.smtp_server import Received

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


def test_mail_arrives_with_text_html_and_headers(app: Flask, server: Received, work: Callable[[], None]) -> None:
    enqueue_mail(app, "ann@customer.example", "plan_version_changed", organization="Bäckerei Ünal")
    [(mail_id,)] = mail_rows(app, "id")
    work()
    [mail] = server.mails
    assert server.recipients == ["ann@customer.example"]
    assert mail["To"] == "ann@customer.example"
    assert mail["From"] == "saas-api <no-reply@localhost>"
    assert "Bäckerei Ünal" in mail["Subject"]
    assert mail["Message-ID"] == f"<{mail_id.hex}@localhost>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"].datetime.tzinfo is not None
    for kind in ("plain", "html"):
        part = mail.get_body((kind,))
        assert part is not None
        assert "/dashboard/billing/plans" in part.get_content()
    assert mail_rows(app, "status, attempts, text_body") == [("sent", 1, None)]
    assert stored_emails(app) == []


def test_batch_of_mails_uses_one_connection(app: Flask, server: Received) -> None:
    for number in range(3):
        enqueue_mail(app, f"ann{number}@customer.example")
    deliver(app)
    assert len(server.mails) == 3
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("to_recipient", "to_content", "state"),
    [
        ("550 no such user", "250 OK", ("failed", "invalid_recipient")),
        ("450 busy", "250 OK", ("queued", "provider_unavailable")),
        ("250 OK", "554 no", ("failed", "content_refused")),
        ("250 OK", "451 later", ("queued", "provider_unavailable")),
    ],
)
def test_reply_of_the_server_decides_the_status(
    app: Flask, server: Received, to_recipient: str, to_content: str, state: tuple[str, str]
) -> None:
    server.to_recipient, server.to_content = to_recipient, to_content
    enqueue_mail(app)
    deliver(app)
    assert mail_rows(app, "status, error_code") == [state]
    server.to_recipient = server.to_content = "250 OK"
    make_mails_due(app)
    deliver(app)
    assert len(server.mails) == (1 if state[0] == "queued" else 0)


def test_address_the_server_does_not_support_fails_without_stopping_the_next(
    app: Flask, use_smtp: Callable[..., None]
) -> None:
    enqueue_mail(app, "ünal@customer.example")
    enqueue_mail(app, "ann@customer.example")
    received = Received()
    with smtp_server.listening(received, enable_SMTPUTF8=False) as port:
        use_smtp(port)
        deliver(app)
    assert mail_rows(app, "status, error_code") == [("failed", "unsupported_recipient"), ("sent", None)]


def test_address_in_any_script_is_reached(app: Flask, server: Received) -> None:
    enqueue_mail(app, "ünal@customer.example")
    deliver(app)
    assert server.recipients == ["ünal@customer.example"]


def test_mails_wait_for_a_retry_when_the_server_is_unreachable(app: Flask, use_smtp: Callable[..., None]) -> None:
    received = Received()
    with smtp_server.listening(received) as port:
        pass
    use_smtp(port)
    for number in range(3):
        enqueue_mail(app, f"ann{number}@customer.example")
    deliver(app)
    assert mail_rows(app) == [("queued", 1, "provider_unavailable")] * 3


def test_mail_is_not_sent_without_the_encryption_of_the_settings(app: Flask, use_smtp: Callable[..., None]) -> None:
    received = Received()
    with smtp_server.listening(received) as port:
        use_smtp(port, "starttls")
        enqueue_mail(app)
        deliver(app)
    assert received.mails == []
    assert mail_rows(app) == [("queued", 1, "provider_unavailable")]


@needs_openssl
@pytest.mark.parametrize(("password", "status"), [("right", "sent"), ("wrong", "queued")])
def test_server_with_starttls_checks_name_and_password(
    app: Flask,
    use_smtp: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    password: str,
    status: str,
) -> None:
    cert, context = smtp_server.create_tls_context(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    options = {
        "tls_context": context,
        "require_starttls": True,
        "auth_required": True,
        "auth_exclude_mechanism": ["LOGIN"],
    }
    received = Received()
    with smtp_server.listening(received, authenticator=smtp_server.only_ann, **options) as port:
        use_smtp(port, "starttls", USERNAME="ann", PASSWORD=password)
        enqueue_mail(app)
        deliver(app)
    assert [row.status for row in mail_rows(app)] == [status]
    assert len(received.mails) == (1 if status == "sent" else 0)


@needs_openssl
def test_mail_is_not_sent_to_a_server_with_an_untrusted_certificate(
    app: Flask, use_smtp: Callable[..., None], tmp_path: Path
) -> None:
    _, context = smtp_server.create_tls_context(tmp_path)
    received = Received()
    with smtp_server.listening(received, tls_context=context) as port:
        use_smtp(port, "starttls")
        enqueue_mail(app)
        deliver(app)
    assert received.mails == []
    assert mail_rows(app) == [("queued", 1, "provider_unavailable")]
