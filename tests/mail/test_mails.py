"""Templates of mails in text and HTML, and the transaction that enqueues a mail."""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import ProgrammingError

from saas_api.core.db import tenancy
from saas_api.mail import mails
from tests.support.mail import CONTEXTS, links, mail_rows, stored_emails
from tests.support.messages import MessagingOrganization

HOSTILE_TEXT = '<script>alert(1)</script> "Bo" & Co\r\nBcc: many@customer.example\r\n' + "x" * 500
TEMPLATES = sorted(CONTEXTS)


def render(app: Flask, template: str, context: dict[str, Any]) -> tuple[str, str, str]:
    with app.app_context():
        return mails.render(template, context)


def test_every_template_has_a_context_in_these_tests() -> None:
    templates = {path.stem for path in Path(mails._TEMPLATES).glob("[a-z]*.txt")}
    assert templates == set(TEMPLATES)
    assert {path.stem for path in Path(mails._TEMPLATES).glob("[a-z]*.html")} == templates


@pytest.mark.parametrize("template", TEMPLATES)
def test_text_and_html_have_the_same_links(app: Flask, template: str) -> None:
    _, text, page = render(app, template, {**CONTEXTS[template], "name": "Ann"})
    assert "Hello Ann," in text
    assert "Hello Ann," in page
    assert links(text)
    assert links(text) == {html.unescape(link) for link in links(page)}


@pytest.mark.parametrize("template", TEMPLATES)
def test_values_of_a_mail_become_one_short_line_without_markup(app: Flask, template: str) -> None:
    hostile = {name: value if name == "token" else HOSTILE_TEXT for name, value in CONTEXTS[template].items()}
    subject, text, page = render(app, template, {**hostile, "name": HOSTILE_TEXT})
    assert len(subject) <= 78
    assert "\n" not in subject
    assert "<script" not in page
    assert "\nBcc:" not in text
    assert "x" * 200 not in text + page
    assert len(page.encode()) <= 30_000


@pytest.mark.parametrize("template", TEMPLATES)
def test_text_of_a_mail_keeps_within_78_columns(app: Flask, template: str) -> None:
    _, text, _ = render(app, template, CONTEXTS[template])
    assert max(len(line) for line in text.splitlines() if not line.startswith("http")) <= 78, "a URL is one line"


def test_guides_that_mails_lead_to_exist(app: Flask, client: FlaskClient) -> None:
    found = {link for template in TEMPLATES for link in links(render(app, template, CONTEXTS[template])[1])}
    guides = sorted(link.partition("/docs/")[2] for link in found if "/docs/" in link)
    assert len(guides) >= 4
    for guide in guides:
        slug, _, section = guide.partition("#")
        response = client.get(f"/docs/{slug}")
        assert response.status_code == 200, guide
        assert not section or f'id="{section}"' in response.text, guide


def test_links_of_a_mail_begin_with_the_app_url(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "APP_URL", "https://api.acme.example")
    _, text, _ = render(app, "verify_email", {"token": "a+b/c="})
    assert "https://api.acme.example/verify-email?token=a%2Bb%2Fc%3D\n" in text


def test_incomplete_context_is_an_error(app: Flask) -> None:
    with pytest.raises(jinja2.UndefinedError):
        render(app, "invitation", {"token": "t"})


def test_mail_of_a_rolled_back_transaction_is_not_sent(app: Flask, work: Callable[[], None]) -> None:
    with app.app_context(), tenancy.system_session("mail.deliver") as session:
        mails.enqueue(session, "verify_email", "ann@customer.example", token="t")
        session.rollback()
    work()
    assert mail_rows(app) == []
    assert stored_emails(app) == []


def test_tenant_session_enqueues_mails_and_cannot_read_them(app: Flask, client: FlaskClient) -> None:
    acme = MessagingOrganization(client, "Acme", "alice@acme.example")
    with app.app_context():
        with tenancy.tenant_session(acme.id) as session:
            mails.enqueue(session, "welcome", "bob@acme.example")
        with pytest.raises(ProgrammingError), tenancy.tenant_session(acme.id) as session:
            session.execute(sa.text("SELECT * FROM mails"))
    assert (acme.id, "bob@acme.example") in [tuple(row) for row in mail_rows(app, "organization_id, recipient")]


def test_tenant_session_cannot_enqueue_mails_of_another_organization(app: Flask, client: FlaskClient) -> None:
    acme, carol = (
        MessagingOrganization(client, "Acme", "alice@acme.example"),
        MessagingOrganization(client, "Carol", "carol@carol.example"),
    )
    with app.app_context(), pytest.raises(ProgrammingError), tenancy.tenant_session(acme.id) as session:
        mails.enqueue(session, "welcome", "bob@acme.example", organization_id=carol.id)
