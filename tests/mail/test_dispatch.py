"""The worker hands over what was committed, once, and keeps nothing of what it said."""

from collections.abc import Callable, Generator, Sequence

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import faults
from saas_api.core.db import tenancy
from saas_api.core.jobs import queue, schedule
from saas_api.core.jobs.outbox import Result
from saas_api.mail import dispatch
from saas_api.providers import selection
from saas_api.providers.mail import OutboundEmail
from saas_api.providers.mailbox import FileMailbox
from saas_api.providers.messages import SendResult
from tests.support import mail as post
from tests.support.messages import Company

Work = Callable[[], None]


class Stubborn(FileMailbox):
    """A mailbox that answers everything in one way."""

    def __init__(self, outcome: SendResult) -> None:
        self.outcome = outcome

    def deliver(self, letters: Sequence[OutboundEmail]) -> Generator[tuple[OutboundEmail, SendResult], None, None]:
        for letter in letters:
            yield letter, self.outcome


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[SendResult], None]:
    def use(outcome: SendResult) -> None:
        monkeypatch.setattr(selection, "email_provider", lambda: Stubborn(outcome))

    return use


def test_a_committed_mail_is_in_the_mailbox_and_its_content_out_of_the_table(app: Flask, work: Work) -> None:
    post.write(app, name="Ann")
    assert post.rows(app, "status, text_body LIKE '%t0ken-verify%'") == [("queued", True)]
    work()
    [mail] = post.received(app)
    assert (mail.recipient, mail.subject) == ("ann@customer.example", "Verify your e-mail address")
    assert f"{app.config['APP_URL']}/verify-email?token=t0ken-verify" in mail.links
    assert "t0ken-verify" in mail.html
    assert post.rows(app) == [("sent", 1, None)]
    assert post.rows(app, "subject, text_body, html_body") == [(None, None, None)]


def test_a_mail_that_the_outside_cannot_take_now_is_tried_eight_times(
    app: Flask, answer: Callable[[SendResult], None]
) -> None:
    answer(SendResult("retry", "provider_unavailable"))
    post.write(app)
    for attempt in range(1, 9):
        assert post.turn(app) == 1
        assert post.rows(app) == [("failed" if attempt == 8 else "queued", attempt, "provider_unavailable")]
        assert post.turn(app) == 0
        post.make_due(app)
    assert post.rows(app, "text_body") == [(None,)]


def test_a_refused_mail_fails_at_once_and_forgets_its_content(app: Flask, answer: Callable[[SendResult], None]) -> None:
    answer(SendResult("rejected", "invalid_recipient"))
    post.write(app)
    post.turn(app)
    assert post.rows(app, "status, error_code, text_body") == [("failed", "invalid_recipient", None)]


def test_who_lost_the_lease_writes_nothing(app: Flask) -> None:
    post.write(app)
    first = post.claim(app)
    post.make_due(app)
    post.claim(app)
    with app.app_context():
        dispatch.record_result(first, Result(first.rows[0].id, "sent"))
    assert post.rows(app, "status, attempts, interruptions") == [("sending", 0, 1)]


@pytest.mark.parametrize("place", ["mail.after_claim", "mail.after_send"])
def test_what_a_broken_worker_held_is_handed_over_by_the_next_and_is_one_mail(
    app: Flask, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    post.write(app)
    monkeypatch.setattr(faults, "active_fault", [f"{place}:raise"])
    monkeypatch.setattr(faults, "_hits", {})
    with pytest.raises(RuntimeError):
        post.turn(app)
    assert post.rows(app, "status, text_body LIKE '%t0ken%'") == [("sending", True)]
    assert post.turn(app) == 0
    post.make_due(app)
    assert post.turn(app) == 1
    assert post.rows(app, "status, interruptions, text_body") == [("sent", 1, None)]
    assert len(post.received(app)) == 1


def test_a_mail_that_interrupts_again_and_again_is_given_up(app: Flask) -> None:
    post.write(app)
    for _ in range(11):
        post.claim(app)
        post.make_due(app)
    post.turn(app)
    assert post.rows(app, "status, error_code, text_body") == [("failed", "poisoned", None)]
    assert post.received(app) == []


def test_mail_interrupted_three_times_is_sent_first_and_alone(app: Flask) -> None:
    for number in range(3):
        post.write(app, f"ann{number}@customer.example")
    with app.app_context(), tenancy.system_session("mail.deliver") as session:
        session.execute(sa.text("UPDATE mails SET interruptions = 3 WHERE recipient LIKE 'ann2@%'"))
        session.execute(sa.text("UPDATE mails SET next_at = next_at - interval '1 h' WHERE interruptions = 0"))
    assert post.turn(app) == 1
    assert [mail.recipient for mail in post.received(app)] == ["ann2@customer.example"]
    assert post.turn(app) == 2


def test_what_is_not_begun_in_time_is_given_back(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "MAX_SENDING_SECONDS", -1)
    for number in range(3):
        post.write(app, f"ann{number}@customer.example")
    assert post.turn(app) == 3
    assert sorted(row.status for row in post.rows(app)) == ["queued", "queued", "sent"]
    assert post.turn(app) == 2


def test_the_sweep_finds_a_mail_that_no_wake_up_announced(app: Flask, work: Work) -> None:
    post.write(app)
    post.claim(app)
    post.make_due(app)
    work()
    with app.app_context():
        post.make_due(app)
        schedule.run_sweeps()
    work()
    assert [row.status for row in post.rows(app)] == ["sent"]


def test_without_redis_the_sweep_hands_over_by_itself(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    post.write(app)
    monkeypatch.setattr(queue, "wake_workers", lambda *_, **__: False)
    with app.app_context():
        schedule.run_sweeps()
    assert [row.status for row in post.rows(app)] == ["sent"]


def test_one_organizations_mails_do_not_hold_up_a_persons(app: Flask, client: FlaskClient, work: Work) -> None:
    acme = Company(client, "Acme", "alice@acme.example")
    for _ in range(3):
        post.write(app, "bob@acme.example", "invitation", organization_id=acme.id)
    post.write(app)
    assert post.turn(app, acme.id) >= 3
    assert {row.status for row in post.rows(app, "status, organization_id") if row.organization_id} == {"sent"}
    work()
    with app.app_context(), tenancy.system_session("mail.deliver") as session:
        assert session.scalar(sa.text("SELECT count(*) FROM mails WHERE status <> 'sent'")) == 0
