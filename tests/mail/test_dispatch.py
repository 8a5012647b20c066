"""Workers send committed mails once and erase their content."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core.db import tenancy
from saas_api.core.jobs import schedule
from saas_api.core.jobs.outbox import RowResult
from saas_api.mail import dispatch
from tests.support.faults import InjectFault
from tests.support.mail import claim_mails, deliver, enqueue_mail, mail_rows, make_mails_due, stored_emails
from tests.support.messages import MessagingOrganization
from tests.support.redis_outage import without_redis  # noqa: F401 - a fixture
from tests.support.smtp_server import Received

Work = Callable[[], None]


def test_sent_mail_is_in_the_mailbox_and_its_content_is_erased(app: Flask, work: Work) -> None:
    enqueue_mail(app, name="Ann")
    assert mail_rows(app, "status, text_body LIKE '%t0ken-verify%'") == [("queued", True)]
    work()
    [mail] = stored_emails(app)
    assert (mail.recipient, mail.subject) == ("ann@customer.example", "Verify your email address")
    assert f"{app.config['APP_URL']}/verify-email?token=t0ken-verify" in mail.links
    assert "t0ken-verify" in mail.html
    assert mail_rows(app) == [("sent", 1, None)]
    assert mail_rows(app, "subject, text_body, html_body") == [(None, None, None)]


def test_mail_fails_after_its_eighth_failed_attempt(app: Flask, server: Received) -> None:
    server.to_recipient = "451 try again later"
    enqueue_mail(app)
    for attempt in range(1, 9):
        assert deliver(app) == 1
        assert mail_rows(app) == [("failed" if attempt == 8 else "queued", attempt, "provider_unavailable")]
        assert deliver(app) == 0
        make_mails_due(app)
    assert mail_rows(app, "text_body") == [(None,)]


def test_rejected_mail_fails_at_once_and_its_content_is_erased(app: Flask, server: Received) -> None:
    server.to_recipient = "550 no such user"
    enqueue_mail(app)
    deliver(app)
    assert mail_rows(app, "status, error_code, text_body") == [("failed", "invalid_recipient", None)]


def test_result_under_a_lost_lease_of_a_mail_is_not_recorded(app: Flask) -> None:
    enqueue_mail(app)
    first = claim_mails(app)
    make_mails_due(app)
    claim_mails(app)
    with app.app_context():
        dispatch.record_result(first, RowResult(first.rows[0].id, "sent"))
    assert mail_rows(app, "status, attempts, interruptions") == [("sending", 0, 1)]


@pytest.mark.parametrize("fault", ["mail.after_claim", "mail.after_send"])
def test_mail_claimed_by_a_failed_worker_is_sent_once_by_the_next(
    app: Flask, inject_fault: InjectFault, fault: str
) -> None:
    enqueue_mail(app)
    inject_fault(f"{fault}:raise")
    with pytest.raises(RuntimeError):
        deliver(app)
    assert mail_rows(app, "status, text_body LIKE '%t0ken%'") == [("sending", True)]
    assert deliver(app) == 0
    make_mails_due(app)
    assert deliver(app) == 1
    assert mail_rows(app, "status, interruptions, text_body") == [("sent", 1, None)]
    assert len(stored_emails(app)) == 1


def test_mail_interrupted_ten_times_fails_as_poisoned(app: Flask) -> None:
    enqueue_mail(app)
    for _ in range(11):
        claim_mails(app)
        make_mails_due(app)
    deliver(app)
    assert mail_rows(app, "status, error_code, text_body") == [("failed", "poisoned", None)]
    assert stored_emails(app) == []


def test_mail_interrupted_three_times_is_sent_first_and_alone(app: Flask) -> None:
    for number in range(3):
        enqueue_mail(app, f"ann{number}@customer.example")
    with app.app_context(), tenancy.system_session("mail.deliver") as session:
        session.execute(sa.text("UPDATE mails SET interruptions = 3 WHERE recipient LIKE 'ann2@%'"))
        session.execute(sa.text("UPDATE mails SET next_at = next_at - interval '1 h' WHERE interruptions = 0"))
    assert deliver(app) == 1
    assert [mail.recipient for mail in stored_emails(app)] == ["ann2@customer.example"]
    assert deliver(app) == 2


def test_mails_not_sent_in_time_are_given_back(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "MAX_SENDING_SECONDS", -1)
    for number in range(3):
        enqueue_mail(app, f"ann{number}@customer.example")
    assert deliver(app) == 3
    assert sorted(row.status for row in mail_rows(app)) == ["queued", "queued", "sent"]
    assert deliver(app) == 2


def test_sweep_sends_a_mail_without_a_wake_up(app: Flask, work: Work) -> None:
    enqueue_mail(app)
    claim_mails(app)
    make_mails_due(app)
    work()
    with app.app_context():
        make_mails_due(app)
        schedule.run_sweeps()
    work()
    assert [row.status for row in mail_rows(app)] == ["sent"]


@pytest.mark.usefixtures("without_redis")
def test_sweep_sends_mails_by_itself_without_redis(app: Flask) -> None:
    enqueue_mail(app)
    with app.app_context():
        schedule.run_sweeps()
    assert [row.status for row in mail_rows(app)] == ["sent"]


def test_mails_of_an_organization_and_of_a_user_are_sent_apart(app: Flask, client: FlaskClient, work: Work) -> None:
    acme = MessagingOrganization(client, "Acme", "alice@acme.example")
    for _ in range(3):
        enqueue_mail(app, "bob@acme.example", "invitation", organization_id=acme.id)
    enqueue_mail(app)
    assert deliver(app, acme.id) >= 3
    assert {row.status for row in mail_rows(app, "status, organization_id") if row.organization_id} == {"sent"}
    work()
    with app.app_context(), tenancy.system_session("mail.deliver") as session:
        assert session.scalar(sa.text("SELECT count(*) FROM mails WHERE status <> 'sent'")) == 0
