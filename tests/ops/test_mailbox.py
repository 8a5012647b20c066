"""The mailbox shows the mails of development; in production it does not exist.

Access: every visitor gets 200 in development and test, and 404 in production.
"""

import html
from pathlib import Path
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.accounts import User
from tests.support.mail import deliver, enqueue_mail, stored_emails
from tests.support.pages import Browser


@pytest.fixture(autouse=True)
def instance(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "INSTANCE", str(tmp_path))


def test_empty_mailbox_has_a_notice(client: FlaskClient) -> None:
    assert "No emails yet" in client.get("/ops/mail").text


def test_newest_mail_is_first(app: Flask, client: FlaskClient) -> None:
    for template in ("welcome", "verify_email", "invitation"):
        enqueue_mail(app, "ann@customer.example", template)
    deliver(app)
    page = client.get("/ops/mail").text
    places = [page.index(subject) for subject in ("Join an", "Verify your", "Welcome to")]
    assert places == sorted(places)


def test_mail_page_shows_text_with_links_and_sandboxed_html(app: Flask, client: FlaskClient) -> None:
    enqueue_mail(app)
    deliver(app)
    [mail] = stored_emails(app)
    response = client.get(f"/ops/mail/{mail.id}")
    link = f"{app.config['APP_URL']}/verify-email?token=t0ken-verify"
    assert f'<a href="{link}"' in response.text
    assert f'srcdoc="{html.escape(mail.html).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")}"' in response.text
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in response.text
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")


def test_user_content_in_a_mail_is_escaped(app: Flask, client: FlaskClient) -> None:
    enqueue_mail(app, "ann@customer.example", "plan_version_changed", organization="<script>alert(1)</script>")
    deliver(app)
    [mail] = stored_emails(app)
    for path in ("/ops/mail", f"/ops/mail/{mail.id}"):
        page = client.get(path).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;" in page


def test_unknown_mail_is_not_found(client: FlaskClient) -> None:
    for path in (f"/ops/mail/{uuid4()}", "/ops/mail/..%2f..%2fsecrets", "/ops/mail/x"):
        assert client.get(path).status_code == 404


def test_mailbox_does_not_exist_in_production(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue_mail(app)
    deliver(app)
    [mail] = stored_emails(app)
    monkeypatch.setitem(app.config, "APP_ENV", "production")
    for path in ("/ops/mail", f"/ops/mail/{mail.id}"):
        response = client.get(path)
        assert response.status_code == 404
        assert "t0ken" not in response.text


def test_stored_mails_are_readable_by_their_owner_only(app: Flask, tmp_path: Path) -> None:
    enqueue_mail(app)
    deliver(app)
    [path] = (tmp_path / "mail").iterdir()
    assert path.suffix == ".eml"
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_mailbox_is_hidden_from_other_machines(client: FlaskClient) -> None:
    response = client.get("/ops/mail", environ_base={"REMOTE_ADDR": "192.0.2.7"})
    assert response.status_code == 404


def test_pages_lead_to_the_mailbox_where_mails_are_stored(
    app: Flask, client: FlaskClient, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R11: a newcomer is asked to open the link of a mail, which nobody sends without SMTP_HOST."""
    mailbox_link = '<a href="/ops/mail">'
    browser = Browser(app, alice)
    assert f"{mailbox_link}Mailbox</a>" in client.get("/").text
    assert f"{mailbox_link}Open mailbox</a>" in browser.open("/dashboard").text
    monkeypatch.setitem(app.config, "SMTP_HOST", "smtp.example")
    assert mailbox_link not in client.get("/").text + browser.open("/dashboard").text


def test_other_machines_are_not_led_to_the_mailbox(client: FlaskClient) -> None:
    assert "/ops/mail" not in client.get("/", environ_base={"REMOTE_ADDR": "192.0.2.7"}).text
