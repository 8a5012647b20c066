"""The platform's outbox and what it runs on, at the console: no content, no secret."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.jobs.outbox import RowResult
from saas_api.mail import dispatch, mails
from tests.architecture.source import ROOT
from tests.support.accounts import Person
from tests.support.console import BOTH, PLATFORM, check_offices, console, log, problem, run
from tests.support.payments import Visitor


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return Visitor(app, app.response_class)


def write(app: Flask, person: Person, template: str = "welcome", **words: object) -> str:
    """A mail that waits; the page that sends it again."""
    run(app, "DELETE FROM mails")
    owner = ids.parse_id("org", person.organization_id) if template == "welcome" else None
    with app.app_context(), tenancy.system_session("mail.deliver") as session:
        mails.enqueue(
            session, template, "ann@customer.example", organization_id=owner, **{"organization": "Acme", **words}
        )
    return f"/admin/mail/{run(app, 'SELECT id FROM mails')[0].id}/send-again"


def give_up(app: Flask) -> None:
    """Let the only mail fail for good, as the worker does."""
    with app.app_context():
        claim = dispatch.claim_batch(run(app, "SELECT organization_id FROM mails")[0].organization_id)
        dispatch.record_result(claim, RowResult(claim.rows[0].id, "failed", "invalid_recipient"))


def test_only_operators_find_the_pages(app: Flask, client: FlaskClient, alice: Person, carol: Person) -> None:
    again = write(app, alice)
    check_offices(app, client, carol, {"/admin/mail": "support", "/admin/system": "support", again: "support"})


def test_the_outbox_shows_no_content(app: Flask, client: FlaskClient, alice: Person) -> None:
    write(app, alice)
    run(app, "UPDATE mails SET subject = 'Very private', text_body = 'very private', html_body = 'very private'")
    page = console(app, client, "support").text("/admin/mail?recipient=ANN@customer.example")
    assert ("ann@customer.example" in page, "private" in page) == (True, False)


def test_mails_are_found_by_status_and_template(app: Flask, client: FlaskClient, alice: Person) -> None:
    olga = console(app, client, "support")
    write(app, alice)
    found = {
        query: "ann@customer.example" in olga.text(f"/admin/mail?{query}")
        for query in ("status=queued", "status=failed", "template=welcome", "template=verify_email")
    }
    assert list(found.values()) == [True, False, True, False]


def test_a_mail_that_was_given_up_is_sent_again(app: Flask, client: FlaskClient, alice: Person) -> None:
    again = write(app, alice)
    give_up(app)
    olga = console(app, client, "support")
    assert "invalid recipient" in olga.text("/admin/mail?status=failed")
    assert "on its way again" in olga.does(again)
    rows = run(app, "SELECT status, attempts, text_body IS NOT NULL FROM mails WHERE recipient LIKE 'ann@%'")
    assert rows == [("queued", 0, True)]
    assert log(app, "mail.sent_again") == BOTH


def test_a_mail_of_nobodys_organization_is_in_the_operators_log(app: Flask, client: FlaskClient, alice: Person) -> None:
    again = write(app, alice, "operator_alert", subject_line="a check failed", detail="one found")
    console(app, client, "support").does(again)
    assert log(app, "mail.sent_again") == PLATFORM


def test_a_one_time_link_is_erased_and_not_sent_again(app: Flask, client: FlaskClient, alice: Person) -> None:
    again = write(app, alice, "reset_password", token="t0ken")
    give_up(app)
    assert run(app, "SELECT text_body FROM mails") == [(None,)]
    answer = console(app, client, "support").act(again)
    assert (answer.status_code, "cannot be sent again" in problem(answer)) == (409, True)


def test_the_outbox_is_a_file_too(app: Flask, client: FlaskClient, alice: Person) -> None:
    write(app, alice)
    answer = console(app, client, "support").open("/admin/mail?format=csv&recipient=ann@customer.example")
    rows = answer.get_data(as_text=True).splitlines()
    assert (len(rows), ",welcome,ann@customer.example,queued,0," in rows[1]) == (2, True)


def test_the_system_page_hides_every_secret(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    olga = console(app, client, "support")
    secrets = {
        "STRIPE_SECRET_KEY": "sk_stripe_hidden",
        "SMTP_PASSWORD": "smtp-hidden",
        "REDIS_PASSWORD_URL": "redis://:hidden-in-url@localhost:1/0",
    }
    for name, value in secrets.items():
        monkeypatch.setitem(app.config, name, value)
    page = olga.text("/admin/system")
    for name in ("SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER", "STRIPE_SECRET_KEY"):
        assert name in page
        assert str(app.config[name]) not in page
    assert "hidden-in-url" not in page
    assert "smtp-hidden" not in page


def test_the_system_page_tells_versions_migration_and_clocks(app: Flask, client: FlaskClient) -> None:
    page = console(app, client, "support").text("/admin/system")
    head = max(path.stem[:4] for path in (ROOT / "migrations" / "versions").glob("0*.py"))
    assert (head in page, "PostgreSQL" in page, "current" in page, "API_PORT" in page) == (True, True, True, True)
    assert "Run: flask db upgrade" not in page


def test_a_database_behind_the_code_is_said(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from saas_api.admin import system

    monkeypatch.setattr(system, "head_migration", lambda: "9999")
    assert "this code wants 9999" in console(app, client, "support").text("/admin/system")
