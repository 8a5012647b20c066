"""Delivery of events: signed, at least once, spread over days while it fails, and without harm to anybody else."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from standardwebhooks import Webhook

from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.jobs import queue
from saas_api.webhooks import dispatch, jobs, retries
from saas_api.webhooks.dispatch import AttemptResult
from saas_api.webhooks.events import DRAIN_JOB
from saas_api.webhooks.models import AttemptOutcome
from tests.support.accounts import join, make_key
from tests.support.http_receiver import receiving
from tests.support.webhooks import Company, deliver, endpoint_of, short_drains  # noqa: F401 - a fixture

OPEN = "SELECT status, attempts, error_code, last_status FROM webhook_deliveries ORDER BY id"
NOON = 1_772_366_400.0
DATES = [
    ("Sun, 01 Mar 2026 12:06:40 GMT", 400),
    ("Sun, 01 Mar 2026 11:00:00 GMT", 300),
    ("Sun, 01 Mar 99999 11:00:00 GMT", None),
]
LOG = "SELECT n, outcome, status_code, response_snippet FROM webhook_attempts ORDER BY delivery_id, n"


def make_due(acme: Company) -> None:
    """Let every open delivery, and every lease, be due now."""
    acme.run("UPDATE webhook_deliveries SET next_at = now() WHERE next_at IS NOT NULL")


def test_an_event_arrives_once_with_a_signature_the_stock_library_accepts(app: Flask, acme: Company) -> None:
    with receiving(status=200, body=b"thanks") as receiver:
        secret = acme.listen(receiver.url)["secret"]
        acme.report("invoice.paid", object="invoice", status="paid")
        deliver(app)
        deliver(app)
    assert len(receiver.received) == 1
    one = receiver.received[0]
    event = Webhook(secret).verify(one.body, one.headers)
    assert (event["type"], event["id"], event["data"]["status"]) == ("invoice.paid", one.webhook_id, "paid")
    assert acme.rows(OPEN) == [("delivered", 1, None, 200)]
    assert acme.rows(LOG) == [(1, "ok", 200, "thanks")]


def test_only_endpoints_that_want_a_type_get_it(app: Flask, acme: Company) -> None:
    with receiving() as one, receiving() as other:
        acme.listen(one.url, event_types=["invoice.paid"])
        acme.listen(other.url, event_types=["message.failed"])
        acme.report("invoice.paid")
        deliver(app)
    assert (len(one.received), len(other.received)) == (1, 0)


def test_a_failed_delivery_comes_again_with_the_same_id_until_it_is_taken(app: Flask, acme: Company) -> None:
    with receiving(script=[500, 503, 302]) as receiver:
        secret = acme.listen(receiver.url)["secret"]
        acme.report()
        for _ in range(4):
            deliver(app)
            make_due(acme)
    assert len(receiver.received) == 4
    assert len(set(receiver.ids)) == 1
    for one in receiver.received:
        Webhook(secret).verify(one.body, one.headers)
    assert acme.rows(OPEN) == [("delivered", 4, None, 204)]
    assert [row.outcome for row in acme.rows(LOG)] == ["http_error", "http_error", "http_error", "ok"]


@pytest.mark.parametrize(
    ("failed", "status", "low", "high"),
    [(1, 500, 4, 6), (2, 500, 240, 360), (1, 503, 48, 72), (9, 500, 69_120, 103_680)],
)
def test_the_next_try_comes_after_its_step_give_or_take_a_fifth(
    failed: int, status: int, low: float, high: float
) -> None:
    waits = [retries.retry_delay_seconds(failed, status, None) for _ in range(200)]
    assert low <= min(waits) <= max(waits) <= high


@pytest.mark.parametrize(("asked", "given"), [("1", 300), ("400", 400), ("9999", 600), ("soon", None), *DATES])
def test_what_the_receiver_asks_for_is_honoured_up_to_twice_the_step(asked: str, given: float | None) -> None:
    seconds = retries.retry_delay_seconds(2, 500, retries.parse_retry_after(asked, NOON))
    assert seconds == given if given else 240 <= seconds <= 360


def test_after_ten_tries_it_is_given_up(app: Flask, acme: Company) -> None:
    with receiving(status=500) as receiver:
        acme.listen(receiver.url)
        acme.report()
        for _ in range(12):
            deliver(app)
            make_due(acme)
    assert len(receiver.received) == 10
    assert acme.rows(OPEN) == [("failed", 10, "http_500", 500)]


def test_nobody_at_home_is_a_failure_like_any_other(app: Flask, acme: Company) -> None:
    with receiving() as receiver:
        acme.listen(receiver.url)
    acme.report()
    deliver(app)
    assert acme.rows(OPEN) == [("queued", 1, "connection", None)]
    assert acme.rows("SELECT FROM webhook_deliveries WHERE next_at > now() + interval '6 s'") == []


def test_an_address_that_turned_private_is_not_connected_to(
    app: Flask, acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        acme.listen(receiver.url)
        acme.report()
        monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", [])
        deliver(app)
    assert receiver.received == []
    assert acme.rows(OPEN) == [("queued", 1, "blocked", None)]


def test_a_thin_endpoint_gets_what_names_the_object(app: Flask, acme: Company) -> None:
    with receiving() as receiver:
        secret = acme.listen(receiver.url, payload="thin")["secret"]
        acme.report("invoice.paid", object="invoice", id="inv_1", status="paid", total_amount="1.00")
        deliver(app)
    event = Webhook(secret).verify(receiver.received[0].body, receiver.received[0].headers)
    assert event["data"] == {"object": "invoice", "id": "inv_1", "status": "paid"}


def test_during_a_rotation_both_secrets_sign(app: Flask, acme: Company) -> None:
    with receiving() as receiver:
        made = acme.listen(receiver.url)
        rotated = acme.call("POST", f"/endpoints/{made['id']}/rotate-secret", {"grace_seconds": 60}).json["data"]
        acme.report()
        deliver(app)
    for secret in (made["secret"], rotated["secret"]):
        Webhook(secret).verify(receiver.received[0].body, receiver.received[0].headers)


def test_what_the_receiver_says_is_kept_as_text_and_not_at_length(app: Flask, acme: Company) -> None:
    with receiving(status=500, body=b"\x00\xff<script>" + b"a" * 20_000) as receiver:
        acme.listen(receiver.url)
        acme.report()
        deliver(app)
    snippet = acme.rows(LOG)[0].response_snippet
    assert snippet.startswith("\ufffd\ufffd<script>a")
    assert len(snippet.encode()) <= 8192


def test_a_killed_worker_leaves_an_interrupted_attempt_and_the_event_comes_again(app: Flask, acme: Company) -> None:
    with receiving() as receiver:
        made = acme.listen(receiver.url)
        acme.report()
        with app.app_context():
            assert len(dispatch.claim_deliveries((acme.id, _id(made)), 10, 10)) == 1
        make_due(acme)
        deliver(app)
    assert len(receiver.received) == 1
    assert [row.outcome for row in acme.rows(LOG)] == ["interrupted", "ok"]
    assert acme.rows("SELECT attempts, interruptions FROM webhook_deliveries") == [(2, 1)]


def _id(made: dict[str, Any]) -> Any:
    return ids.parse_id("whe", made["id"])


def test_who_lost_the_lease_writes_nothing(app: Flask, acme: Company) -> None:
    with receiving() as receiver:
        made = acme.listen(receiver.url)
        acme.report()
        with app.app_context():
            late = dispatch.claim_deliveries((acme.id, _id(made)), 10, 10)[0]
            make_due(acme)
            deliver(app)
            assert dispatch.record_results(late.owner, late.claim, [AttemptResult(late, AttemptOutcome.TIMEOUT)]) == 1
    assert acme.rows(OPEN) == [("delivered", 2, None, 204)]


def test_a_delivery_that_kills_its_process_is_given_up(app: Flask, acme: Company) -> None:
    with receiving() as receiver:
        made = acme.listen(receiver.url)
        acme.report()
        for _ in range(12):
            with app.app_context():
                dispatch.claim_deliveries((acme.id, _id(made)), 10, 10)
            make_due(acme)
        deliver(app)
    assert receiver.received == []
    assert [row[:1] + row[2:3] for row in acme.rows(OPEN)] == [("failed", "poisoned")]


def test_an_endpoint_that_is_gone_is_disabled_at_once_and_its_people_are_told_once(app: Flask, acme: Company) -> None:
    with receiving(status=410) as gone, receiving() as other:
        acme.listen(gone.url)
        acme.listen(other.url, event_types=["webhook_endpoint.disabled"])
        join(app, acme.owner.organization_id, "bob@acme.example", "member")
        for _ in range(3):
            acme.report()
        deliver(app)
        deliver(app)
    assert endpoint_of(acme).status == "disabled_gone"
    assert len(gone.received) == 1
    assert sorted(row.status for row in acme.rows(OPEN)) == ["canceled", "canceled", "delivered", "failed"]
    assert len(other.received) == 1
    assert mails(app) == ["alice@acme.example"]


def mails(app: Flask) -> list[str]:
    with app.app_context(), tenancy.system_session("mail.due") as session:
        return list(session.scalars(text("SELECT recipient FROM mails WHERE template = 'webhook_disabled'")))


def test_five_days_of_failures_disable_an_endpoint_although_no_event_came(app: Flask, acme: Company) -> None:
    acme.listen()
    acme.run("UPDATE webhook_endpoints SET first_failure_at = now(), consecutive_failures = 1")
    with app.app_context():
        clock.freeze_time(clock.now() + timedelta(days=4, hours=23))
        assert jobs.disable_failing() == {"disabled": 0}
        clock.freeze_time(clock.now() + timedelta(hours=2))
        assert jobs.disable_failing() == {"disabled": 1}
        assert jobs.disable_failing() == {"disabled": 0}
    assert endpoint_of(acme).status == "disabled_failing"
    assert mails(app) == ["alice@acme.example"]


def test_old_events_are_cleared_away_but_not_what_is_on_its_way(app: Flask, acme: Company) -> None:
    acme.listen()
    acme.report()
    acme.end("delivered")
    acme.report()
    clock.freeze_time(clock.now() + timedelta(days=31))
    with app.app_context():
        assert jobs.purge() == {"deleted": 1}
    assert [row.status for row in acme.rows(OPEN)] == ["queued"]


def test_a_message_tells_of_its_end_and_of_its_acceptance_where_that_is_asked_for(
    app: Flask, acme: Company, work: Callable[[], None]
) -> None:
    with receiving() as everything, receiving() as named:
        acme.listen(everything.url)
        key = make_key(acme.client, acme.owner)
        acme.client.get("/api/v1/messages", headers=key)
        acme.listen(named.url, event_types=["message.accepted"])
        for to in ("+15005550006", "+15005550001"):
            acme.client.post("/api/v1/messages/send", json={"to": to, "type": "sms", "message": "Hello"}, headers=key)
        work()
        deliver(app)
    kinds = sorted(row.type for row in acme.rows("SELECT type FROM events"))
    assert kinds == [
        "api_key.created",
        "message.accepted",
        "message.accepted",
        "message.delivered",
        "message.failed",
        "subscription.created",
    ]
    assert len(named.received) == 2
    assert b"Hello" not in b"".join(one.body for one in (*named.received, *everything.received))


def test_counters_say_what_was_delivered(app: Flask, acme: Company) -> None:
    with receiving(script=[500]) as receiver:
        acme.listen(receiver.url)
        acme.report()
        deliver(app)
        make_due(acme)
        deliver(app)
    with app.app_context(), tenancy.system_session("queue.runs") as session:
        counted = session.execute(
            text("SELECT labels, value FROM delivery_counters WHERE name = 'webhook_attempts_total'")
        )
        assert dict(counted.all()) == {"http_error": 1, "ok": 1}


def test_a_drain_that_is_told_to_stop_finishes_what_it_holds(
    app: Flask, acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(seconds=0.3) as receiver:
        acme.listen(receiver.url)
        for _ in range(5):
            acme.report()
        monkeypatch.setattr(queue, "is_stopping", lambda: bool(receiver.received))
        deliver(app)
    assert len(receiver.received) == 1
    assert sorted(row.status for row in acme.rows(OPEN)) == ["delivered", "queued", "queued", "queued", "queued"]
    assert DRAIN_JOB == "webhooks.drain"
