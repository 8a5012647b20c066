"""Mails and the system page at the console: no content, no secret."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.jobs.outbox import RowResult
from saas_api.mail import dispatch, mails
from tests.architecture.source import ROOT
from tests.support.accounts import User
from tests.support.console import (
    IN_BOTH_LOGS,
    IN_PLATFORM_LOG,
    audit_log,
    check_operator_access,
    error_summary,
    execute_sql,
    sign_in_operator,
)
from tests.support.migrations import stamped_revision
from tests.support.payments import IsolatedClient


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return IsolatedClient(app, app.response_class)


def queue_mail(app: Flask, user: User, template: str = "welcome", **context: object) -> str:
    """Queue a mail and return the path of the form that resends it."""
    execute_sql(app, "DELETE FROM mails")
    owner = ids.parse_id("org", user.organization_id) if template == "welcome" else None
    with app.app_context(), tenancy.system_session("mail.deliver") as session:
        mails.enqueue(
            session, template, "ann@customer.example", organization_id=owner, **{"organization": "Acme", **context}
        )
    return f"/admin/mail/{execute_sql(app, 'SELECT id FROM mails')[0].id}/send-again"


def fail_mail(app: Flask) -> None:
    """Fail the only mail as the worker does."""
    with app.app_context():
        claim = dispatch.claim_batch(execute_sql(app, "SELECT organization_id FROM mails")[0].organization_id)
        dispatch.record_result(claim, RowResult(claim.rows[0].id, "failed", "invalid_recipient"))


def test_pages_require_an_operator_role(app: Flask, client: FlaskClient, alice: User, carol: User) -> None:
    resend = queue_mail(app, alice)
    check_operator_access(app, client, carol, {"/admin/mail": "support", "/admin/system": "support", resend: "support"})


def test_mail_list_shows_no_content(app: Flask, client: FlaskClient, alice: User) -> None:
    queue_mail(app, alice)
    execute_sql(
        app, "UPDATE mails SET subject = 'Very private', text_body = 'very private', html_body = 'very private'"
    )
    page = sign_in_operator(app, client, "support").read("/admin/mail?recipient=ANN@customer.example")
    assert ("ann@customer.example" in page, "private" in page) == (True, False)


def test_mails_are_filtered_by_status_and_template(app: Flask, client: FlaskClient, alice: User) -> None:
    olga = sign_in_operator(app, client, "support")
    queue_mail(app, alice)
    matches = {
        query: "ann@customer.example" in olga.read(f"/admin/mail?{query}")
        for query in ("status=queued", "status=failed", "template=welcome", "template=verify_email")
    }
    assert list(matches.values()) == [True, False, True, False]


def test_failed_mail_is_resent(app: Flask, client: FlaskClient, alice: User) -> None:
    resend = queue_mail(app, alice)
    fail_mail(app)
    olga = sign_in_operator(app, client, "support")
    assert "invalid recipient" in olga.read("/admin/mail?status=failed")
    assert "Email queued for sending." in olga.run_action(resend)
    rows = execute_sql(app, "SELECT status, attempts, text_body IS NOT NULL FROM mails WHERE recipient LIKE 'ann@%'")
    assert rows == [("queued", 0, True)]
    assert audit_log(app, "mail.sent_again") == IN_BOTH_LOGS


def test_resend_of_a_platform_mail_is_in_the_platform_log(app: Flask, client: FlaskClient, alice: User) -> None:
    resend = queue_mail(app, alice, "operator_alert", subject_line="a check failed", detail="one violation")
    sign_in_operator(app, client, "support").run_action(resend)
    assert audit_log(app, "mail.sent_again") == IN_PLATFORM_LOG


def test_mail_with_a_one_time_link_cannot_be_resent(app: Flask, client: FlaskClient, alice: User) -> None:
    resend = queue_mail(app, alice, "reset_password", token="t0ken")
    fail_mail(app)
    assert execute_sql(app, "SELECT text_body FROM mails") == [(None,)]
    response = sign_in_operator(app, client, "support").submit_action(resend)
    assert (response.status_code, "be resent" in error_summary(response)) == (409, True)


def test_mails_download_as_csv(app: Flask, client: FlaskClient, alice: User) -> None:
    queue_mail(app, alice)
    path = "/admin/mail?format=csv&reason=ticket+4711&recipient=ann@customer.example"
    response = sign_in_operator(app, client).open(path)
    rows = response.get_data(as_text=True).splitlines()
    assert (len(rows), ",welcome,ann@customer.example,queued,0," in rows[1]) == (2, True)


def test_system_page_hides_every_secret(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    olga = sign_in_operator(app, client, "support")
    secrets = {
        "STRIPE_SECRET_KEY": "sk_stripe_hidden",
        "SMTP_PASSWORD": "smtp-hidden",
        "REDIS_PASSWORD_URL": "redis://:hidden-in-url@localhost:1/0",
    }
    for name, value in secrets.items():
        monkeypatch.setitem(app.config, name, value)
    page = olga.read("/admin/system")
    for name in ("SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER", "STRIPE_SECRET_KEY"):
        assert name in page
        assert str(app.config[name]) not in page
    assert "hidden-in-url" not in page
    assert "smtp-hidden" not in page


def test_system_page_shows_versions_migration_and_settings(app: Flask, client: FlaskClient) -> None:
    page = sign_in_operator(app, client, "support").read("/admin/system")
    head = max(path.stem[:4] for path in (ROOT / "migrations" / "versions").glob("0*.py"))
    assert (head in page, "PostgreSQL" in page, "current" in page, "API_PORT" in page) == (True, True, True, True)
    assert "Run: flask db upgrade" not in page


def test_system_page_warns_when_the_database_is_behind(app: Flask, client: FlaskClient) -> None:
    head = max(path.stem[:4] for path in (ROOT / "migrations" / "versions").glob("0*.py"))
    with stamped_revision(app, "0001"):
        page = sign_in_operator(app, client, "support").read("/admin/system")
    assert f"this version needs {head}" in page
