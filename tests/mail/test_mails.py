"""A mail says what it must in both its parts, whatever people called themselves; it leaves with its transaction."""

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
from tests.support import mail as post
from tests.support.messages import Company

NASTY = '<script>alert(1)</script> "Bo" & Co\r\nBcc: everybody@customer.example\r\n' + "x" * 500
TEMPLATES = sorted(post.WORDS)


def render(app: Flask, template: str, words: dict[str, Any]) -> tuple[str, str, str]:
    with app.app_context():
        return mails.render(template, words)


def test_every_template_on_disk_is_tried_here() -> None:
    found = {path.stem for path in Path(mails._TEMPLATES).glob("[a-z]*.txt")}
    assert found == set(TEMPLATES)
    assert {path.stem for path in Path(mails._TEMPLATES).glob("[a-z]*.html")} == found


@pytest.mark.parametrize("template", TEMPLATES)
def test_both_parts_hold_the_same_links(app: Flask, template: str) -> None:
    _, text, page = render(app, template, {**post.WORDS[template], "name": "Ann"})
    assert "Hello Ann," in text
    assert "Hello Ann," in page
    assert post.links(text)
    assert post.links(text) == {html.unescape(link) for link in post.links(page)}


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_people_wrote_is_one_short_line_and_never_markup(app: Flask, template: str) -> None:
    nasty = {name: value if name == "token" else NASTY for name, value in post.WORDS[template].items()}
    subject, text, page = render(app, template, {**nasty, "name": NASTY})
    assert len(subject) <= 78
    assert "\n" not in subject
    assert "<script" not in page
    assert "\nBcc:" not in text
    assert "x" * 200 not in text + page
    assert len(page.encode()) <= 30_000


@pytest.mark.parametrize("template", TEMPLATES)
def test_ordinary_words_keep_the_text_within_78_columns(app: Flask, template: str) -> None:
    _, text, _ = render(app, template, post.WORDS[template])
    assert max(len(line) for line in text.splitlines() if not line.startswith("http")) <= 78, "an address is one piece"


def test_links_begin_with_the_public_address(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "APP_URL", "https://api.acme.example")
    _, text, _ = render(app, "verify_email", {"token": "a+b/c="})
    assert "https://api.acme.example/verify-email?token=a%2Bb%2Fc%3D\n" in text


def test_a_missing_word_is_an_error(app: Flask) -> None:
    with pytest.raises(jinja2.UndefinedError):
        render(app, "invitation", {"token": "t"})


def test_a_mail_of_a_transaction_that_fails_never_was(app: Flask, work: Callable[[], None]) -> None:
    with app.app_context(), tenancy.system_session("mail.deliver") as session:
        mails.enqueue(session, "verify_email", "ann@customer.example", token="t")
        session.rollback()
    work()
    assert post.rows(app) == []
    assert post.received(app) == []


def test_a_tenant_writes_its_own_mail_and_reads_none(app: Flask, client: FlaskClient) -> None:
    acme = Company(client, "Acme", "alice@acme.example")
    with app.app_context():
        with tenancy.tenant_session(acme.id) as session:
            mails.enqueue(session, "welcome", "bob@acme.example", organization="Acme")
        with pytest.raises(ProgrammingError), tenancy.tenant_session(acme.id) as session:
            session.execute(sa.text("SELECT * FROM mails"))
    assert (acme.id, "bob@acme.example") in [tuple(row) for row in post.rows(app, "organization_id, recipient")]


def test_a_tenant_writes_no_mail_of_another(app: Flask, client: FlaskClient) -> None:
    acme, carol = Company(client, "Acme", "alice@acme.example"), Company(client, "Carol", "carol@carol.example")
    with app.app_context(), pytest.raises(ProgrammingError), tenancy.tenant_session(acme.id) as session:
        mails.enqueue(session, "welcome", "bob@acme.example", organization_id=carol.id, organization="Acme")
