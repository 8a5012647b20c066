"""Claims beyond what may be in flight: limits across processes, deliveries that are given back, and their attempts."""

import threading
import time
from typing import Any

import pytest
from flask import Flask

from saas_api.core import ids
from saas_api.webhooks import claims, dispatch
from saas_api.webhooks.attempts import AttemptResult, ClaimedDelivery
from saas_api.webhooks.claims import Capacity, ClaimedDeliveries
from saas_api.webhooks.models import AttemptOutcome
from tests.support.http_receiver import run_receiver, wait_until
from tests.support.webhooks import WebhookOrganization, deliver, read_endpoint

EVENTS = 12
IDLE = Capacity(threads=64, threads_if_failing=32, to_hold=4)
"""Of a process that has claimed nothing."""


@pytest.fixture
def key(context: Flask, acme: WebhookOrganization) -> tuple[Any, Any]:
    """An endpoint that receives up to four requests at a time, with twelve deliveries."""
    created = acme.create_endpoint()
    acme.execute("UPDATE webhook_endpoints SET max_in_flight = 4, in_flight_limit = 4")
    for _ in range(EVENTS):
        acme.publish_event()
    return acme.id, ids.parse_id("whe", created["id"])


def after(claimed: ClaimedDeliveries, to_hold: int = 4, unsent: int | None = None) -> Capacity:
    """Capacity of the process that has claimed deliveries, of which so many are unsent."""
    tokens = [delivery.claim.token for delivery in claimed.deliveries]
    return Capacity(64, 32, to_hold, tokens, len(tokens) if unsent is None else unsent)


def record(claimed: list[ClaimedDelivery] | Any, outcome: AttemptOutcome = AttemptOutcome.OK) -> int:
    return claims.record_results(claimed[0].endpoint, [AttemptResult(delivery, outcome, 1) for delivery in claimed])


def test_process_claims_what_it_may_send_and_what_it_holds(key: Any) -> None:
    claimed = claims.claim_deliveries(key, IDLE)
    assert (len(claimed.deliveries), claimed.max_in_flight, claimed.is_all) == (8, 4, False)
    rest = claims.claim_deliveries(key, after(claimed, unsent=3))
    assert (len(rest.deliveries), rest.max_in_flight, rest.is_all) == (4, 4, True)


def test_held_deliveries_of_one_process_leave_no_request_to_another(key: Any) -> None:
    first = claims.claim_deliveries(key, IDLE)
    second = claims.claim_deliveries(key, IDLE)
    assert (len(second.deliveries), second.max_in_flight) == (0, 0)
    record(first.deliveries[:6])
    third = claims.claim_deliveries(key, IDLE)
    assert (len(third.deliveries), third.max_in_flight) == (4, 2)
    again = claims.claim_deliveries(key, after(first, unsent=2))
    assert (len(again.deliveries), again.max_in_flight) == (0, 0)


def test_failing_endpoint_has_nothing_held(acme: WebhookOrganization, key: Any) -> None:
    claimed = claims.claim_deliveries(key, IDLE)
    record(claimed.deliveries[:1], AttemptOutcome.TIMEOUT)
    claims.give_back_deliveries(key, claimed.deliveries[1:])
    again = claims.claim_deliveries(key, IDLE)
    assert (len(again.deliveries), again.max_in_flight, again.is_failing) == (1, 1, True)


def test_delivery_given_back_was_never_attempted(acme: WebhookOrganization, key: Any) -> None:
    claimed = claims.claim_deliveries(key, IDLE)
    claims.give_back_deliveries(key, claimed.deliveries)
    assert acme.rows("SELECT DISTINCT status, attempts, interruptions FROM webhook_deliveries") == [("queued", 0, 0)]
    assert acme.rows("SELECT FROM webhook_attempts") == []
    assert [delivery.attempt for delivery in claims.claim_deliveries(key, IDLE).deliveries] == [1] * 8


def test_delivery_given_back_too_late_stays_with_its_new_process(acme: WebhookOrganization, key: Any) -> None:
    late = claims.claim_deliveries(key, IDLE).deliveries[0]
    acme.execute("UPDATE webhook_deliveries SET next_at = now() WHERE next_at IS NOT NULL")
    claims.claim_deliveries(key, Capacity(4, 4, 20))
    claims.give_back_deliveries(key, [late])
    [row] = acme.rows(
        "SELECT status, attempts FROM webhook_deliveries WHERE interruptions = 1 AND attempts = 2 LIMIT 1"
    )
    assert row.status == "sending"
    assert {row.outcome for row in acme.rows("SELECT outcome FROM webhook_attempts WHERE n = 1")} >= {"interrupted"}
    assert record([late]) == 1


def test_held_deliveries_of_a_disabled_endpoint_are_canceled_when_given_back(
    acme: WebhookOrganization, key: Any
) -> None:
    claimed = claims.claim_deliveries(key, IDLE)
    acme.execute("UPDATE webhook_endpoints SET status = 'disabled_manual'")
    claims.give_back_deliveries(key, claimed.deliveries)
    assert acme.rows("SELECT DISTINCT status FROM webhook_deliveries") == [("canceled",)]
    assert acme.rows("SELECT FROM webhook_attempts") == []


def test_results_of_two_claims_are_recorded_together(acme: WebhookOrganization, key: Any) -> None:
    first = claims.claim_deliveries(key, IDLE)
    second = claims.claim_deliveries(key, after(first, unsent=0))
    assert record([*first.deliveries, *second.deliveries]) == 0
    assert acme.rows("SELECT status, count(*) FROM webhook_deliveries GROUP BY 1") == [("delivered", EVENTS)]
    assert acme.rows("SELECT DISTINCT n, outcome FROM webhook_attempts") == [(1, "ok")]


def test_claim_that_ran_while_a_request_failed_is_given_back(key: Any) -> None:
    endpoint = dispatch._Endpoint(key, threading.Event())
    endpoint.hold(claims.claim_deliveries(key, IDLE), time.monotonic() + 60)
    sent = endpoint.take_next()
    assert sent
    endpoint.take_held()
    during = claims.claim_deliveries(key, Capacity(64, 32, 4, [sent.claim.token], 1))
    assert endpoint.finish(AttemptResult(sent, AttemptOutcome.TIMEOUT, 1)) is None
    endpoint.hold(during, time.monotonic() + 60)
    assert (endpoint.take_next(), endpoint.is_stuck) == (None, True)
    assert len(endpoint.take_results(is_late=False)) == 1


def test_endpoint_that_begins_to_fail_receives_no_held_delivery(app: Flask, acme: WebhookOrganization) -> None:
    """Of the deliveries that are held for a quick endpoint, none is sent after a failure."""
    with run_receiver(script=[204] * 60, status=410) as receiver:
        acme.create_endpoint(receiver.url)
        acme.execute("UPDATE webhook_endpoints SET max_in_flight = 2, in_flight_limit = 2")
        for _ in range(100):
            acme.publish_event()
        deliver(app)
        wait_until(lambda: receiver.at_once == 0)
    sent = len(receiver.received)
    assert 61 <= sent <= 62
    assert read_endpoint(acme).status == "disabled_gone"
    statuses = dict(tuple(row) for row in acme.rows("SELECT status, count(*) FROM webhook_deliveries GROUP BY 1"))
    assert statuses == {"delivered": 60, "failed": sent - 60, "canceled": 100 - sent}
    assert acme.rows("SELECT FROM webhook_attempts WHERE outcome = 'started'") == []
    attempts = acme.rows("SELECT count(*), (SELECT sum(attempts) FROM webhook_deliveries) FROM webhook_attempts")
    assert attempts == [(sent, sent)]
