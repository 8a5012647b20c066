"""POST /api/v1/events: verdicts, exactness, and each event once."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.usage import live_quantities, meters
from tests.support.accounts import User, create_key
from tests.support.usage_events import EventSender, ledger_rows, make_event, publish_meter

CLOUD_EVENT, CLOUD_BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"

BAD_EVENTS: list[tuple[dict[str, Any], str]] = [
    ({"id": None}, "INVALID_EVENT"),
    ({"id": ""}, "INVALID_EVENT"),
    ({"id": 7}, "INVALID_EVENT"),
    ({"id": "x" * 256}, "INVALID_EVENT"),
    ({"id": "a\0b"}, "INVALID_EVENT"),
    ({"source": "s" * 256}, "INVALID_EVENT"),
    ({"source": "a\0"}, "INVALID_EVENT"),
    ({"source": "reversal"}, "INVALID_EVENT"),
    ({"source": "messages.send"}, "INVALID_EVENT"),
    ({"type": None}, "INVALID_EVENT"),
    ({"type": ["lookups"]}, "INVALID_EVENT"),
    ({"specversion": "0.3"}, "INVALID_EVENT"),
    ({"subject": None}, "INVALID_EVENT"),
    ({"time": "yesterday"}, "INVALID_EVENT"),
    ({"time": "2026-03-05T14:00:00"}, "INVALID_EVENT"),
    ({"time": "2026-02-30T14:00:00Z"}, "INVALID_EVENT"),
    ({"time": 1_700_000_000}, "INVALID_EVENT"),
    ({"time": "0001-01-01T00:00:00+05:00"}, "INVALID_EVENT"),
    ({"data": [1]}, "INVALID_EVENT"),
    ({"data_base64": "e30="}, "INVALID_EVENT"),
    ({"data": {"model": {"name": "large"}}}, "INVALID_EVENT"),
    ({"data": {"model": "a\0b"}}, "INVALID_EVENT"),
    ({"data": {"a\0b": "large"}}, "INVALID_EVENT"),
    ({"data": {"note": "x" * 5_000}}, "INVALID_EVENT"),
    ({"type": "faxes"}, "UNKNOWN_METER"),
    ({"subject": "nobody"}, "UNKNOWN_SUBJECT"),
    ({"subject": "org_" + "0" * 32}, "UNKNOWN_SUBJECT"),
    ({"subject": "key_" + "0" * 32}, "UNKNOWN_SUBJECT"),
    ({"data": {"quantity": 0}}, "INVALID_QUANTITY"),
    ({"data": {"quantity": -1}}, "INVALID_QUANTITY"),
    ({"data": {"quantity": "0.0000001"}}, "INVALID_QUANTITY"),
    ({"data": {"quantity": 1e-7}}, "INVALID_QUANTITY"),
    ({"data": {"quantity": "1e3"}}, "INVALID_QUANTITY"),
    ({"data": {"quantity": "many"}}, "INVALID_QUANTITY"),
    ({"data": {"quantity": True}}, "INVALID_QUANTITY"),
    ({"data": {"quantity": 10**12 + 1}}, "INVALID_QUANTITY"),
    ({"data": {"quantity": 1234567890.123456}}, "INVALID_QUANTITY"),
    ({"type": "tokens"}, "MISSING_PROPERTY"),
    ({"type": "tokens", "data": {"count": "some"}}, "INVALID_QUANTITY"),
    ({"time": "9999-12-31T23:59:59Z"}, "IN_FUTURE"),
    ({"time": "0001-01-01T00:00:00Z"}, "TOO_OLD"),
]


@pytest.fixture
def sender(app: Flask, client: FlaskClient) -> EventSender:
    """A service that reports lookups."""
    publish_meter(app)
    return EventSender(client)


def nothing_else(accepted: int = 0, duplicates: int = 0) -> dict[str, Any]:
    return {"accepted": accepted, "duplicates": duplicates, "rejected": 0, "errors": []}


def test_an_event_is_in_the_ledger_when_the_answer_comes(app: Flask, sender: EventSender, alice: User) -> None:
    event = make_event(alice.organization_id, time="2026-01-01T00:00:00Z", data={"quantity": "2.5", "model": "large"})
    event["time"] = clock.format_rfc3339(clock.now() - timedelta(milliseconds=1))
    assert sender.send(event) == nothing_else(accepted=1)
    columns = "source, idempotency_key, meter_code, quantity, properties, api_key_id, endpoint, late_for_period_id"
    assert ledger_rows(app, alice.organization_id, columns) == [
        ("lookups", event["id"], "lookups", Decimal("2.5"), {"model": "large"}, None, None, None)
    ]


def test_cloud_events_are_taken_alone_as_a_batch_and_with_attributes_in_headers(
    app: Flask, sender: EventSender, alice: User
) -> None:
    def post(body: Any, media_type: str, **headers: str) -> Any:
        options = {"content_type": media_type, "headers": {**sender.headers, **headers}}
        return sender.client.post("/api/v1/events", data=orjson.dumps(body), **options).json

    events = [make_event(alice.organization_id, specversion="1.0", source="/eu/1") for _ in range(3)]
    assert post(events[0], f"{CLOUD_EVENT}; charset=utf-8")["data"] == nothing_else(accepted=1)
    assert post(events[:2], CLOUD_BATCH)["data"] == nothing_else(accepted=1, duplicates=1)
    attributes = {f"Ce-{name.title()}": value for name, value in events[2].items()}
    named = {**attributes, "Ce-Source": "%2Feu%2F1"}
    assert post({"quantity": 4}, "application/json", **named)["data"] == nothing_else(accepted=1)
    rows = ledger_rows(app, alice.organization_id, "source, quantity")
    assert sorted(rows) == [("/eu/1", 1), ("/eu/1", 1), ("/eu/1", 4)]
    no_version = make_event(alice.organization_id)
    assert post(no_version, CLOUD_EVENT)["data"]["errors"][0]["code"] == "INVALID_EVENT"
    assert post(no_version, CLOUD_BATCH)["error"]["code"] == "INVALID_REQUEST"
    assert post(no_version, "text/plain")["error"]["code"] == "UNSUPPORTED_MEDIA_TYPE"


def test_bad_events_are_named_and_the_others_are_recorded(app: Flask, sender: EventSender, alice: User) -> None:
    publish_meter(app, code="tokens", value_property="count")
    good = [make_event(alice.organization_id) for _ in BAD_EVENTS]
    bad = [
        make_event(alice.organization_id, **{"id": f"bad-{n}", **changes}) for n, (changes, _) in enumerate(BAD_EVENTS)
    ]
    data = sender.send(*(event for pair in zip(good, bad, strict=True) for event in pair))
    named = {event["index"]: (event["id"], event["code"]) for event in data["errors"]}
    for number, (event, (changes, code)) in enumerate(zip(bad, BAD_EVENTS, strict=True)):
        shown = event.get("id") if isinstance(event.get("id"), str) and len(event["id"]) < 256 else None
        assert named.pop(2 * number + 1, None) == (shown, code), changes
    assert named == {}
    assert (data["accepted"], data["rejected"]) == (len(good), len(bad))
    assert {key for key, _ in ledger_rows(app, alice.organization_id)} == {event["id"] for event in good}


BAD_ON_THE_WIRE = [
    ('{"id": "\\ud800"}', "INVALID_EVENT", None),
    ('{"id": "a", "source": "\\udfff"}', "INVALID_EVENT", "a"),
    ('{"id": "a", "type": "\\ud800"}', "INVALID_EVENT", "a"),
    ('{"id": "a", "subject": "\\ud800"}', "INVALID_EVENT", "a"),
    ('{"id": "a", "time": "\\ud800"}', "INVALID_EVENT", "a"),
    ('{"id": "a", "specversion": NaN}', "INVALID_EVENT", "a"),
    ('{"id": "a", "data": {"model": "\\ud800"}}', "INVALID_EVENT", "a"),
    ('{"id": "a", "data": {"\\ud800": 1}}', "INVALID_EVENT", "a"),
    ('{"id": "a", "data": {"model": NaN}}', "INVALID_EVENT", "a"),
    (f'{{"id": "a", "data": {{"note": {"9" * 5_000}}}}}', "INVALID_EVENT", "a"),
    ('{"id": "a", "data": {"quantity": 1e400}}', "INVALID_QUANTITY", "a"),
    ('{"id": "a", "data": {"quantity": NaN}}', "INVALID_QUANTITY", "a"),
    ('{"id": "a", "data": {"quantity": -Infinity}}', "INVALID_QUANTITY", "a"),
    (f'{{"id": "a", "data": {{"quantity": {"1" * 3_000}}}}}', "INVALID_QUANTITY", "a"),
    ('{"id": "a", "data": {"quantity": "\\ud800"}}', "INVALID_QUANTITY", "a"),
    ('{"id": "a", "type": "people", "data": {"user": NaN}}', "INVALID_EVENT", "a"),
    ('{"id": "a", "type": "people", "data": {"user": "\\ud800"}}', "INVALID_EVENT", "a"),
    ("NaN", "INVALID_EVENT", None),
]
"""What no strict reader of JSON takes: lone surrogates, and numbers that are no finite double."""


def post_text(sender: EventSender, body: str | bytes) -> Any:
    return sender.client.post("/api/v1/events", data=body, headers=sender.headers, content_type="application/json")


def test_an_event_that_strict_json_refuses_refuses_no_other(app: Flask, sender: EventSender, alice: User) -> None:
    publish_meter(app, code="people", aggregation="unique", unique_property="user")
    subject = f'"type": "lookups", "subject": "{alice.organization_id}", '
    bad = [text.replace("{", "{" + subject, 1) for text, _, _ in BAD_ON_THE_WIRE]
    quantities_sent = ["2", "0.1", "1000000000000"]
    good = [f'{{{subject} "id": "é{n}", "data": {{"quantity": {n}, "big": 1{"0" * 19}}}}}' for n in quantities_sent]
    response = post_text(sender, f'{{"events": [{", ".join([*bad, *good])}]}}')
    assert response.status_code == 200, response.json
    found = [(error["code"], error["id"]) for error in response.json["data"]["errors"]]
    assert found == [(code, event_id) for _, code, event_id in BAD_ON_THE_WIRE]
    rows = ledger_rows(app, alice.organization_id, "idempotency_key, quantity, properties")
    assert sorted(rows) == sorted((f"é{n}", Decimal(n), {"big": 1e19}) for n in quantities_sent)


@pytest.mark.parametrize(
    "body",
    ["", "{", "[" * 100_000, '{"events": [{}], }', b'{"events": ["\xff"]}', b'\xef\xbb\xbf{"events": []}', "x" * 9],
)
def test_a_body_that_is_no_json_is_refused(sender: EventSender, body: str | bytes) -> None:
    response = post_text(sender, body)
    assert (response.status_code, response.json["error"]["code"]) == (400, "INVALID_REQUEST")


def test_what_is_no_object_is_a_bad_event(sender: EventSender) -> None:
    assert sender.codes(None, 7, "event", []) == ["INVALID_EVENT"] * 4


def test_an_archived_meter_takes_no_events(app: Flask, sender: EventSender, alice: User) -> None:
    assert sender.send(make_event(alice.organization_id)) == nothing_else(accepted=1)
    with app.app_context():
        meters.archive_meter("lookups", SYSTEM_ACTOR)
    assert sender.codes(make_event(alice.organization_id)) == ["UNKNOWN_METER"]
    with app.app_context():
        meters.archive_meter("lookups", SYSTEM_ACTOR, is_undone=True)
    assert sender.send(make_event(alice.organization_id)) == nothing_else(accepted=1)


def test_quantities_are_exact(app: Flask, sender: EventSender, alice: User) -> None:
    sent = ["0.1", "0.000001", "123456789012.123456", "1000000000000", "0.30"]
    numbers = "[0.1, 0.000001, 999999999.999999, 1000000000000, 0.3, 1.10]"  # as they are written on the wire
    events = [make_event(alice.organization_id, data={"quantity": quantity}) for quantity in sent]
    assert sender.send(*events) == nothing_else(accepted=5)
    body = {"events": [make_event(alice.organization_id, data={"quantity": number}) for number in json.loads(numbers)]}
    response = sender.client.post(
        "/api/v1/events", data=orjson.dumps(body), headers=sender.headers, content_type="application/json"
    )
    assert response.json["data"] == nothing_else(accepted=6)
    expected = [*map(Decimal, sent), *map(Decimal, numbers.strip("[]").split(", "))]
    assert sorted(quantity for _, quantity in ledger_rows(app, alice.organization_id)) == sorted(expected)
    total = [Decimal("0.1")] * 10
    assert sender.send(*(make_event(alice.organization_id, data={"quantity": 0.1}) for _ in total)) == nothing_else(10)
    assert sum(quantity for _, quantity in ledger_rows(app, alice.organization_id)) == sum(expected) + 1


def test_a_meter_reads_the_property_that_it_names(app: Flask, sender: EventSender, alice: User) -> None:
    publish_meter(app, code="tokens", value_property="count")
    publish_meter(app, code="seats", aggregation="unique", unique_property="user")
    publish_meter(app, code="calls", aggregation="count")
    read = [
        make_event(alice.organization_id, type="tokens", data={"count": 12.5, "quantity": 3}),
        make_event(alice.organization_id, type="seats", data={"user": "u-1"}),
        make_event(alice.organization_id, type="calls", data={"quantity": 9}),
    ]
    assert sender.send(*read) == nothing_else(accepted=3)
    rows = ledger_rows(app, alice.organization_id, "meter_code, quantity, unique_value, properties")
    assert sorted(rows, key=lambda row: row[0]) == [
        ("calls", 1, None, {}),
        ("seats", 1, "u-1", {"user": "u-1"}),
        ("tokens", Decimal("12.5"), None, {"count": 12.5}),
    ]


def test_a_repeat_counts_nothing_for_ever(app: Flask, sender: EventSender, alice: User, carol: User) -> None:
    events = [make_event(alice.organization_id, id=f"e-{number}") for number in range(3)]
    assert sender.send(*events, events[0], {**events[0], "data": {"quantity": 7}}) == nothing_else(3, duplicates=2)
    assert sender.send(*events) == nothing_else(duplicates=3)
    assert sender.send(make_event(carol.organization_id, id="e-0")) == nothing_else(accepted=1)
    assert sender.send(make_event(alice.organization_id, id="e-0", source="other")) == nothing_else(accepted=1)
    clock.freeze_time(clock.now() + timedelta(days=400))
    long_ago = clock.format_rfc3339(datetime.now(UTC))
    assert sender.send(*({**event, "time": long_ago} for event in events)) == nothing_else(duplicates=3)
    assert len(ledger_rows(app, alice.organization_id)) == 4


def test_events_of_a_batch_are_recorded_in_its_order(app: Flask, sender: EventSender, alice: User, carol: User) -> None:
    """The last of several at the same instant counts where the meter counts the latest value."""
    publish_meter(app, code="seats", aggregation="latest")
    owners = (alice, carol)
    at = clock.format_rfc3339(clock.now())
    events = [
        make_event(owner.organization_id, type="seats", time=at, data={"quantity": quantity})
        for quantity in range(1, 21)
        for owner in owners
    ]
    assert sender.send(*events) == nothing_else(accepted=40)
    row_ids = [row for owner in owners for row in ledger_rows(app, owner.organization_id, "idempotency_key, id")]
    in_order = [key for key, row_id in sorted(row_ids, key=lambda row: row[1])]
    assert in_order == [event["id"] for event in events]
    for owner in owners:
        organization_id = ids.parse_id("org", owner.organization_id)
        with app.app_context(), tenancy.tenant_session(organization_id) as session:
            [period_id] = session.execute(sa.text("SELECT DISTINCT billing_period_id FROM usage_events")).scalars()
            assert live_quantities.get_totals(session, organization_id, period_id)["seats"] == 20


def test_a_subject_is_an_organization_a_key_or_a_test_key(app: Flask, sender: EventSender, alice: User) -> None:
    live, _ = create_key(sender.client, alice)
    test, _ = create_key(sender.client, alice, mode="test")
    events = [make_event(subject, id="same") for subject in (live, test)]
    assert sender.send(*events, *events) == nothing_else(2, duplicates=2)
    assert sender.send(*events) == nothing_else(duplicates=2)
    hex_of = "replace(CAST(api_key_id AS text), '-', '')"
    assert ledger_rows(app, alice.organization_id, f"'key_' || {hex_of}") == [(live,)]
    assert ledger_rows(app, alice.organization_id, f"'key_' || {hex_of}", "test_usage_events") == [(test,)]
    old = clock.format_rfc3339(clock.now() - timedelta(days=36))
    assert sender.codes(make_event(test, time=old)) == ["TOO_OLD"]
    sender.client.delete(f"/api/v1/keys/{live}", headers=alice.headers)
    assert sender.send(make_event(live)) == nothing_else(accepted=1)  # what the key has used is used


def test_a_batch_has_at_most_1000_events(sender: EventSender, alice: User) -> None:
    events = [make_event(alice.organization_id, id=str(number)) for number in range(1_001)]
    response = sender.post(events)
    assert (response.status_code, response.json["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert sender.send(*events[:1_000]) == nothing_else(accepted=1_000)
    assert sender.send() == nothing_else()


def test_a_batch_has_at_most_one_mebibyte(sender: EventSender, alice: User) -> None:
    body = orjson.dumps({"events": [make_event(alice.organization_id)]})

    def post(size: int) -> Any:
        padded = body + b" " * (size - len(body))
        return sender.client.post(
            "/api/v1/events", data=padded, headers=sender.headers, content_type="application/json"
        )

    response = post(1_048_577)
    assert (response.status_code, response.json["error"]["code"]) == (413, "BODY_TOO_LARGE")
    assert post(1_048_576).json["data"] == nothing_else(accepted=1)


@pytest.mark.parametrize(
    "body", ["{}", '{"events": {}}', '{"events": [], "more": 1}', '{"event": []}', '{"\\ud800": 1}', '{"events": NaN}']
)
def test_a_body_without_a_list_of_events_is_refused(sender: EventSender, body: str) -> None:
    response = post_text(sender, body)
    assert (response.status_code, response.json["error"]["code"]) == (422, "VALIDATION_ERROR")


def test_only_a_service_sends_events(sender: EventSender, alice: User) -> None:
    for headers in ({}, alice.headers, {"Authorization": "Bearer svc_unknown"}, create_key(sender.client, alice)[1]):
        response = sender.client.post("/api/v1/events", json={"events": []}, headers=headers)
        assert (response.status_code, response.json["error"]["code"]) == (401, "INVALID_SERVICE_TOKEN")


def in_parallel(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Results of a call that many threads make at the same time."""
    barrier, results = threading.Barrier(count), [None] * count

    def run(number: int) -> None:
        barrier.wait()
        results[number] = call(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_eight_senders_of_the_same_events_record_each_once(
    app: Flask, sender: EventSender, alice: User, carol: User
) -> None:
    owners = (alice.organization_id, carol.organization_id)
    events = [make_event(owners[number % 2], id=str(uuid4())) for number in range(200)]

    def send(number: int) -> dict[str, Any]:
        turned = events[25 * number :] + events[: 25 * number]  # another order for each
        return EventSender(app.test_client(), headers=sender.headers).send(*turned)

    results = in_parallel(8, send)
    assert sum(result["accepted"] for result in results) == 200
    assert all(result["accepted"] + result["duplicates"] == 200 for result in results)
    assert [len(ledger_rows(app, owner)) for owner in owners] == [100, 100]
