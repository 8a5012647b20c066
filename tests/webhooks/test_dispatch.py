"""Dispatch of deliveries: signatures, retries, interruptions, and endpoints that keep failing."""

import threading
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
from saas_api.webhooks import claims, jobs, retries
from saas_api.webhooks.attempts import AttemptResult
from saas_api.webhooks.claims import Capacity
from saas_api.webhooks.events import DRAIN_JOB
from saas_api.webhooks.models import AttemptOutcome
from tests.support.accounts import join, make_key
from tests.support.http_receiver import run_receiver, wait_until
from tests.support.webhooks import WebhookOrganization, deliver, read_endpoint

DELIVERIES = "SELECT status, attempts, error_code, last_status FROM webhook_deliveries ORDER BY id"
NOON = 1_772_366_400.0
RETRY_AFTER_HEADERS = [
    ("1", 300),
    ("400", 400),
    ("9999", 600),
    ("soon", None),
    ("Sun, 01 Mar 2026 12:06:40 GMT", 400),
    ("Sun, 01 Mar 2026 11:00:00 GMT", 300),
    ("Sun, 01 Mar 99999 11:00:00 GMT", None),
]
ATTEMPTS = "SELECT n, outcome, status_code, response_snippet FROM webhook_attempts ORDER BY delivery_id, n"


def make_due(acme: WebhookOrganization) -> None:
    """Make every pending delivery due, also those whose lease has not expired."""
    acme.execute("UPDATE webhook_deliveries SET next_at = now() WHERE next_at IS NOT NULL")


def test_event_arrives_once_with_a_standard_webhooks_signature(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver(status=200, body=b"thanks") as receiver:
        secret = acme.create_endpoint(receiver.url)["secret"]
        acme.publish_event("invoice.paid", object="invoice", status="paid")
        deliver(app)
        deliver(app)
    assert len(receiver.received) == 1
    request = receiver.received[0]
    event = Webhook(secret).verify(request.body, request.headers)
    assert (event["type"], event["id"], event["data"]["status"]) == ("invoice.paid", request.webhook_id, "paid")
    assert acme.rows(DELIVERIES) == [("delivered", 1, None, 200)]
    assert acme.rows(ATTEMPTS) == [(1, "ok", 200, "thanks")]


def test_event_is_sent_to_subscribed_endpoints_only(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver() as subscribed, run_receiver() as other:
        acme.create_endpoint(subscribed.url, event_types=["invoice.paid"])
        acme.create_endpoint(other.url, event_types=["message.failed"])
        acme.publish_event("invoice.paid")
        deliver(app)
    assert (len(subscribed.received), len(other.received)) == (1, 0)


def test_failed_delivery_is_retried_with_the_same_id(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver(script=[500, 503, 302]) as receiver:
        secret = acme.create_endpoint(receiver.url)["secret"]
        acme.publish_event()
        for _ in range(4):
            deliver(app)
            make_due(acme)
    assert len(receiver.received) == 4
    assert len(set(receiver.ids)) == 1
    for request in receiver.received:
        Webhook(secret).verify(request.body, request.headers)
    assert acme.rows(DELIVERIES) == [("delivered", 4, None, 204)]
    assert [row.outcome for row in acme.rows(ATTEMPTS)] == ["http_error", "http_error", "http_error", "ok"]


@pytest.mark.parametrize(
    ("failed_attempts", "status", "low", "high"),
    [(1, 500, 4, 6), (2, 500, 240, 360), (1, 503, 48, 72), (9, 500, 69_120, 103_680)],
)
def test_retry_delay_varies_by_a_fifth(failed_attempts: int, status: int, low: float, high: float) -> None:
    waits = [retries.retry_delay_seconds(failed_attempts, status, None) for _ in range(200)]
    assert low <= min(waits) <= max(waits) <= high


@pytest.mark.parametrize(("header", "expected"), RETRY_AFTER_HEADERS)
def test_retry_after_is_honored_up_to_twice_the_delay(header: str, expected: float | None) -> None:
    seconds = retries.retry_delay_seconds(2, 500, retries.parse_retry_after(header, NOON))
    assert seconds == expected if expected else 240 <= seconds <= 360


def test_delivery_fails_after_ten_attempts(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver(status=500) as receiver:
        acme.create_endpoint(receiver.url)
        acme.publish_event()
        for _ in range(12):
            deliver(app)
            make_due(acme)
    assert len(receiver.received) == 10
    assert acme.rows(DELIVERIES) == [("failed", 10, "http_500", 500)]


def test_refused_connection_is_retried(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver() as receiver:
        acme.create_endpoint(receiver.url)
    acme.publish_event()
    deliver(app)
    assert acme.rows(DELIVERIES) == [("queued", 1, "connection", None)]
    assert acme.rows("SELECT FROM webhook_deliveries WHERE next_at > now() + interval '6 s'") == []


def test_address_that_became_private_is_blocked(
    app: Flask, acme: WebhookOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_receiver() as receiver:
        acme.create_endpoint(receiver.url)
        acme.publish_event()
        monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", [])
        deliver(app)
    assert receiver.received == []
    assert acme.rows(DELIVERIES) == [("queued", 1, "blocked", None)]


def test_thin_endpoint_receives_object_id_and_status(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver() as receiver:
        secret = acme.create_endpoint(receiver.url, payload="thin")["secret"]
        acme.publish_event("invoice.paid", object="invoice", id="inv_1", status="paid", total_amount="1.00")
        deliver(app)
    event = Webhook(secret).verify(receiver.received[0].body, receiver.received[0].headers)
    assert event["data"] == {"object": "invoice", "id": "inv_1", "status": "paid"}


def test_attempt_shows_the_request_as_it_was_sent(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver(status=500) as receiver:
        created = acme.create_endpoint(receiver.url, payload="thin")
        acme.publish_event(object="invoice", id="inv_1", status="paid", total_amount="1.00")
        deliver(app)
        acme.call("PATCH", f"/endpoints/{created['id']}", {"payload": "full"})
    [delivery] = acme.rows("SELECT id FROM webhook_deliveries")
    response = acme.call("GET", f"/deliveries/{ids.format_id('whd', delivery.id)}")
    [attempt] = response.json["data"]["attempts"]
    sent = {name.lower(): value for name, value in attempt["request_headers"].items()}
    assert sent == receiver.received[0].headers
    assert attempt["payload_format"] == "thin"
    assert created["secret"] not in response.text


def test_blocked_attempt_sent_no_headers(
    app: Flask, acme: WebhookOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.create_endpoint()
    acme.publish_event()
    monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", [])
    deliver(app)
    assert acme.rows("SELECT outcome, payload_format, request_headers FROM webhook_attempts") == [
        ("blocked", "full", None)
    ]


def test_failed_delivery_is_retrying_until_its_last_attempt(app: Flask, acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    acme.publish_event()

    def count_by_status() -> dict[str, int]:
        path = f"/endpoints/{created['id']}/deliveries"
        listed = {
            status: acme.call("GET", path, query_string={"status": status}).json["data"]["deliveries"]
            for status in ("queued", "retrying", "failed")
        }
        assert all(delivery["status"] == status for status, found in listed.items() for delivery in found)
        return {status: len(found) for status, found in listed.items()}

    assert count_by_status() == {"queued": 1, "retrying": 0, "failed": 0}
    deliver(app)
    assert count_by_status() == {"queued": 0, "retrying": 1, "failed": 0}
    acme.finish_deliveries("failed")
    assert count_by_status() == {"queued": 0, "retrying": 0, "failed": 1}


def test_request_is_signed_with_both_secrets_during_a_rotation(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver() as receiver:
        created = acme.create_endpoint(receiver.url)
        rotated = acme.call("POST", f"/endpoints/{created['id']}/rotate-secret", {"grace_seconds": 60}).json["data"]
        acme.publish_event()
        deliver(app)
    for secret in (created["secret"], rotated["secret"]):
        Webhook(secret).verify(receiver.received[0].body, receiver.received[0].headers)


def test_response_excerpt_is_valid_text_of_limited_size(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver(status=500, body=b"\x00\xff<script>" + b"a" * 20_000) as receiver:
        acme.create_endpoint(receiver.url)
        acme.publish_event()
        deliver(app)
    snippet = acme.rows(ATTEMPTS)[0].response_snippet
    assert snippet.startswith("\ufffd\ufffd<script>a")
    assert len(snippet.encode()) <= 8192


def test_delivery_of_a_killed_worker_is_sent_again(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver() as receiver:
        created = acme.create_endpoint(receiver.url)
        acme.publish_event()
        with app.app_context():
            assert len(claims.claim_deliveries((acme.id, endpoint_id(created)), Capacity(10, 10)).deliveries) == 1
        make_due(acme)
        deliver(app)
    assert len(receiver.received) == 1
    assert [row.outcome for row in acme.rows(ATTEMPTS)] == ["interrupted", "ok"]
    assert acme.rows("SELECT attempts, interruptions FROM webhook_deliveries") == [(2, 1)]


def endpoint_id(created: dict[str, Any]) -> Any:
    return ids.parse_id("whe", created["id"])


def test_result_with_a_lost_lease_is_not_recorded(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver() as receiver:
        created = acme.create_endpoint(receiver.url)
        acme.publish_event()
        with app.app_context():
            delivery = claims.claim_deliveries((acme.id, endpoint_id(created)), Capacity(10, 10)).deliveries[0]
            make_due(acme)
            deliver(app)
            result = AttemptResult(delivery, AttemptOutcome.TIMEOUT)
            assert claims.record_results(delivery.endpoint, [result]) == 1
    assert acme.rows(DELIVERIES) == [("delivered", 2, None, 204)]


def test_delivery_that_kills_its_worker_fails_as_poisoned(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver() as receiver:
        created = acme.create_endpoint(receiver.url)
        acme.publish_event()
        for _ in range(12):
            with app.app_context():
                claims.claim_deliveries((acme.id, endpoint_id(created)), Capacity(10, 10))
            make_due(acme)
        deliver(app)
    assert receiver.received == []
    assert [row[:1] + row[2:3] for row in acme.rows(DELIVERIES)] == [("failed", "poisoned")]


def test_endpoint_that_answers_410_is_disabled_with_one_mail(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver(status=410) as gone, run_receiver() as other:
        acme.create_endpoint(gone.url)
        acme.create_endpoint(other.url, event_types=["webhook_endpoint.disabled"])
        join(app, acme.owner.organization_id, "bob@acme.example", "member")
        for _ in range(3):
            acme.publish_event()
        deliver(app)
        deliver(app)
    assert read_endpoint(acme).status == "disabled_gone"
    assert len(gone.received) == 1
    assert sorted(row.status for row in acme.rows(DELIVERIES)) == ["canceled", "canceled", "delivered", "failed"]
    assert len(other.received) == 1
    assert disabled_mail_recipients(app) == ["alice@acme.example"]


def disabled_mail_recipients(app: Flask) -> list[str]:
    with app.app_context(), tenancy.system_session("mail.due") as session:
        return list(session.scalars(text("SELECT recipient FROM mails WHERE template = 'webhook_disabled'")))


def test_five_days_of_failures_disable_an_endpoint_without_events(app: Flask, acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    acme.execute("UPDATE webhook_endpoints SET first_failure_at = now(), last_failure_at = now() + interval '5 d'")
    with app.app_context():
        clock.freeze_time(clock.now() + timedelta(days=4, hours=23))
        assert jobs.disable_failing() == {"disabled": 0}
        clock.freeze_time(clock.now() + timedelta(hours=2))
        assert jobs.disable_failing() == {"disabled": 1}
        assert jobs.disable_failing() == {"disabled": 0}
    assert read_endpoint(acme).status == "disabled_failing"
    assert disabled_mail_recipients(app) == ["alice@acme.example"]


@pytest.mark.parametrize("hours_since_last_failure", [25, 120])
def test_endpoint_without_a_fresh_failure_stays_enabled(
    app: Flask, acme: WebhookOrganization, hours_since_last_failure: int
) -> None:
    """A10: a quiet endpoint was disabled by failures that were days apart."""
    acme.create_endpoint()
    acme.execute(
        """UPDATE webhook_endpoints SET first_failure_at = now() - interval '6 d',
          last_failure_at = now() - make_interval(hours => :hours)""",
        hours=hours_since_last_failure,
    )
    with app.app_context():
        assert jobs.disable_failing() == {"disabled": 0}


@pytest.mark.parametrize(("hours_since_last_failure", "failures"), [(71, 10), (73, 1)])
def test_count_of_failures_begins_again_after_days_without_one(
    app: Flask, acme: WebhookOrganization, hours_since_last_failure: int, failures: int
) -> None:
    """A10: the second of two failures days apart disabled the endpoint."""
    acme.create_endpoint()
    acme.execute(
        """UPDATE webhook_endpoints SET first_failure_at = now() - interval '6 d', consecutive_failures = 9,
          last_failure_at = now() - make_interval(hours => :hours)""",
        hours=hours_since_last_failure,
    )
    acme.publish_event()
    deliver(app)
    assert read_endpoint(acme).consecutive_failures == failures
    with app.app_context():
        assert jobs.disable_failing() == {"disabled": int(failures == 10)}


def test_failed_test_events_do_not_count(app: Flask, acme: WebhookOrganization) -> None:
    """A10: only failures of real events disable an endpoint."""
    endpoint = acme.create_endpoint()
    assert acme.call("POST", f"/endpoints/{endpoint['id']}/test", {}).status_code == 202
    deliver(app)
    stored = read_endpoint(acme)
    assert (stored.consecutive_failures, stored.first_failure_at, stored.last_failure_at) == (0, None, None)


def test_old_events_are_deleted_unless_a_delivery_is_pending(app: Flask, acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    acme.publish_event()
    acme.finish_deliveries("delivered")
    acme.publish_event()
    clock.freeze_time(clock.now() + timedelta(days=31))
    with app.app_context():
        assert jobs.purge() == {"deleted": 1}
    assert [row.status for row in acme.rows(DELIVERIES)] == ["queued"]


def test_messages_publish_results_and_acceptance_to_explicit_subscribers(
    app: Flask, acme: WebhookOrganization, work: Callable[[], None]
) -> None:
    with run_receiver() as default, run_receiver() as explicit:
        acme.create_endpoint(default.url)
        key = make_key(acme.client, acme.owner)
        acme.client.get("/api/v1/messages", headers=key)
        acme.create_endpoint(explicit.url, event_types=["message.accepted"])
        for to in ("+15005550006", "+15005550001"):
            acme.client.post("/api/v1/messages/send", json={"to": to, "type": "sms", "message": "Hello"}, headers=key)
        work()
        deliver(app)
    types = sorted(row.type for row in acme.rows("SELECT type FROM events"))
    assert types == [
        "api_key.created",
        "message.accepted",
        "message.accepted",
        "message.delivered",
        "message.failed",
        "subscription.created",
    ]
    assert len(explicit.received) == 2
    assert b"Hello" not in b"".join(request.body for request in (*explicit.received, *default.received))


def test_attempts_are_counted_by_outcome(app: Flask, acme: WebhookOrganization) -> None:
    with run_receiver(script=[500]) as receiver:
        acme.create_endpoint(receiver.url)
        acme.publish_event()
        deliver(app)
        make_due(acme)
        deliver(app)
    with app.app_context(), tenancy.system_session("queue.runs") as session:
        counters = session.execute(
            text("SELECT labels, value FROM delivery_counters WHERE name = 'webhook_attempts_total'")
        )
        assert dict(counters.all()) == {"http_error": 1, "ok": 1}


def test_stopping_drain_finishes_deliveries_in_flight(app: Flask, acme: WebhookOrganization) -> None:
    def stop_after_the_first_request() -> None:
        wait_until(lambda: len(receiver.received) == 1)
        queue.stop_requested.set()
        receiver.release()

    with run_receiver(is_holding=True) as receiver:
        acme.create_endpoint(receiver.url)
        for _ in range(5):
            acme.publish_event()
        stopping = threading.Thread(target=stop_after_the_first_request)
        stopping.start()
        try:
            deliver(app)
        finally:
            stopping.join(10)
            queue.stop_requested.clear()
    assert len(receiver.received) == 1
    assert sorted(row.status for row in acme.rows(DELIVERIES)) == ["delivered", "queued", "queued", "queued", "queued"]
    assert DRAIN_JOB == "webhooks.drain"
