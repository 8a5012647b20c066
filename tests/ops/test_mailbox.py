"""The mailbox: whoever develops reads there what nobody was sent; in production there is no such page.

Access: anybody 200 in development and test, anybody 404 in production.
"""

import html
from pathlib import Path
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.mail import deliver, enqueue_mail, stored_emails


@pytest.fixture(autouse=True)
def instance(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "INSTANCE", str(tmp_path))


def test_an_empty_mailbox_says_so(client: FlaskClient) -> None:
    assert "There are no mails yet." in client.get("/ops/mail").text


def test_the_newest_mail_stands_first(app: Flask, client: FlaskClient) -> None:
    for template in ("welcome", "verify_email", "invitation"):
        enqueue_mail(app, "ann@customer.example", template)
    deliver(app)
    page = client.get("/ops/mail").text
    places = [page.index(subject) for subject in ("Join Acme", "Verify your", "Welcome to")]
    assert places == sorted(places)


def test_a_mail_shows_its_text_with_links_and_its_html_apart(app: Flask, client: FlaskClient) -> None:
    enqueue_mail(app)
    deliver(app)
    [mail] = stored_emails(app)
    answer = client.get(f"/ops/mail/{mail.id}")
    link = f"{app.config['APP_URL']}/verify-email?token=t0ken-verify"
    assert f'<a href="{link}"' in answer.text
    assert f'srcdoc="{html.escape(mail.html).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")}"' in answer.text
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in answer.text
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")


def test_what_people_wrote_is_shown_and_never_run(app: Flask, client: FlaskClient) -> None:
    enqueue_mail(app, "ann@customer.example", "invitation", organization="<script>alert(1)</script>")
    deliver(app)
    [mail] = stored_emails(app)
    for path in ("/ops/mail", f"/ops/mail/{mail.id}"):
        page = client.get(path).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;" in page


def test_a_mail_that_is_not_there_is_not_found(client: FlaskClient) -> None:
    for path in (f"/ops/mail/{uuid4()}", "/ops/mail/..%2f..%2fsecrets", "/ops/mail/x"):
        assert client.get(path).status_code == 404


def test_in_production_there_is_no_mailbox(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue_mail(app)
    deliver(app)
    [mail] = stored_emails(app)
    monkeypatch.setitem(app.config, "APP_ENV", "production")
    for path in ("/ops/mail", f"/ops/mail/{mail.id}"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "t0ken" not in answer.text


def test_only_the_owner_of_the_instance_reads_its_files(app: Flask, tmp_path: Path) -> None:
    enqueue_mail(app)
    deliver(app)
    [path] = (tmp_path / "mail").iterdir()
    assert path.suffix == ".eml"
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_the_mailbox_is_shown_to_this_machine_alone(client: FlaskClient) -> None:
    answer = client.get("/ops/mail", environ_base={"REMOTE_ADDR": "192.0.2.7"})
    assert answer.status_code == 404
