"""POST /api/v1/events/{id}/reverse: a service takes an event back, once."""

import threading
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.billing import period_close
from saas_api.core import clock, ids
from tests.support.accounts import User, create_key
from tests.support.usage_events import EventSender, ledger_rows, make_event, publish_meter


@pytest.fixture
def sender(app: Flask, client: FlaskClient) -> EventSender:
    """A service that reports lookups."""
    publish_meter(app)
    return EventSender(client)


def reverse(sender: EventSender, event_id: str, key: str | None = None, **body: Any) -> tuple[int, Any]:
    """Status, and data or code, of a reversal."""
    headers = {**sender.headers, **({"Idempotency-Key": key} if key else {})}
    response = sender.client.post(f"/api/v1/events/{event_id}/reverse", json=body or None, headers=headers)
    return response.status_code, response.json.get("data") or response.json["error"]["code"]


def test_an_event_is_taken_back_once(app: Flask, sender: EventSender, alice: User) -> None:
    key_id, _ = create_key(sender.client, alice)
    event = make_event(key_id, id="job 7/b", data={"quantity": "2.5", "model": "large"})
    assert sender.send(event)["accepted"] == 1
    status, reversal = reverse(sender, "job 7/b")
    assert (status, reversal["quantity"], reversal["event_id"], reversal["source"]) == (
        200,
        "-2.5",
        "job 7/b",
        "lookups",
    )
    assert reversal["organization_id"] == alice.organization_id
    assert reverse(sender, "job 7/b") == (409, "ALREADY_REVERSED")
    assert reverse(sender, reversal["reversal_of"]) == (409, "ALREADY_REVERSED")
    columns = "source, quantity, properties, api_key_id, occurred_at, billing_period_id"
    original, taken_back = ledger_rows(app, alice.organization_id, columns)
    assert (taken_back[0], taken_back[1]) == ("reversal", Decimal("-2.5"))
    assert taken_back[2:] == original[2:]
    assert sender.send(event)["duplicates"] == 1  # the id stays used


@pytest.mark.parametrize("event_id", ["a%00b", "uev_%00", "%00", "uev_" + "0" * 31 + "%00"])
def test_no_event_has_an_id_with_nul(sender: EventSender, event_id: str) -> None:
    assert reverse(sender, event_id) == (404, "EVENT_NOT_FOUND")
    assert reverse(sender, "e-1", subject="a\0b") == reverse(sender, "e-1", source="\0") == (422, "VALIDATION_ERROR")


def test_a_repeat_with_the_same_idempotency_key_gets_the_same_answer(sender: EventSender, alice: User) -> None:
    sender.send(make_event(alice.organization_id, id="e-1"))
    first = reverse(sender, "e-1", key="once")
    assert first[0] == 200
    assert reverse(sender, "e-1", key="once") == first
    assert reverse(sender, "e-1", key="twice") == (409, "ALREADY_REVERSED")
    assert reverse(sender, "e-1", key="a, b") == (400, "IDEMPOTENCY_KEY_INVALID")


def test_an_event_of_several_organizations_needs_its_subject(sender: EventSender, alice: User, carol: User) -> None:
    sender.send(make_event(alice.organization_id, id="same"), make_event(carol.organization_id, id="same"))
    assert reverse(sender, "same") == (409, "AMBIGUOUS_EVENT")
    status, reversal = reverse(sender, "same", subject=carol.organization_id)
    assert (status, reversal["organization_id"]) == (200, carol.organization_id)
    assert reverse(sender, "same", subject=alice.organization_id)[0] == 200


def test_only_events_of_the_named_source_are_found(app: Flask, sender: EventSender, alice: User) -> None:
    test_key, _ = create_key(sender.client, alice, mode="test")
    sender.send(
        make_event(alice.organization_id, id="e-1", source="/eu"),
        make_event(test_key, id="test"),
        make_event(alice.organization_id, id="e-2"),
    )
    for event_id, body in (
        ("e-1", {}),
        ("test", {}),
        ("uev_" + "0" * 32, {}),
        ("e-1", {"source": "/eu", "subject": "nobody"}),
        ("e-1", {"source": "reversal"}),
        ("e-1", {"source": "messages.send"}),
    ):
        assert reverse(sender, event_id, **body) == (404, "EVENT_NOT_FOUND")
    assert reverse(sender, "e-1", source="/eu", subject=alice.organization_id)[0] == 200
    _, reversal = reverse(sender, "e-2")
    assert reverse(sender, reversal["id"], source="reversal") == (404, "EVENT_NOT_FOUND")


def test_the_open_period_pays_back_an_event_of_a_closed_one(app: Flask, sender: EventSender, alice: User) -> None:
    sender.send(make_event(alice.organization_id, id="e-1"))
    with app.app_context():
        period_close.close_now(ids.parse_id("org", alice.organization_id))
    clock.freeze_time(clock.now() + timedelta(minutes=1))
    assert reverse(sender, "e-1")[0] == 200
    columns = "billing_period_id, late_for_period_id, quantity"
    (paid, _, _), (paying_back, late_for, quantity) = ledger_rows(app, alice.organization_id, columns)
    assert (late_for, quantity) == (paid, -1)
    assert paying_back != paid


def test_eight_reversals_at_the_same_time_count_once(app: Flask, sender: EventSender, alice: User) -> None:
    sender.send(make_event(alice.organization_id, id="e-1"))
    statuses: list[int] = []

    def run() -> None:
        client = EventSender(app.test_client(), headers=sender.headers)
        statuses.append(reverse(client, "e-1")[0])

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, *[409] * 7]
    assert [quantity for _, quantity in ledger_rows(app, alice.organization_id)] in ([1, -1], [-1, 1])
