"""The API of messages.

| caller | send | show | list |
|---|---|---|---|
| live or test key | 202 | 200 own mode | 200 own mode |
| user | 401 | 200 | 200 |
| no credentials | 401 | 401 | 401 |
| another organization | - | 404 | nothing |
"""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock, ids
from saas_api.core.access import Principal
from saas_api.core.limits import backends, limiter
from saas_api.messages import messages
from tests.support.accounts import Headers
from tests.support.messages import LIST, MAIL, SEND, SMS, MessagingOrganization, Work, make_due, rows
from tests.support.statements import count_statements


@pytest.fixture
def acme(client: FlaskClient) -> MessagingOrganization:
    return MessagingOrganization(client, "Acme", "alice@acme.example")


def test_message_is_accepted_with_its_cost(acme: MessagingOrganization) -> None:
    sent = acme.send(message="x" * 161)
    assert sent["message_id"].startswith("msg_")
    assert (sent["status"], sent["segments"], sent["cost"], sent["currency"]) == ("queued", 2, "0.02", "USD")
    assert (sent["usage_recorded"], sent["mode"]) == (True, "live")


def test_message_and_its_usage_are_written_in_one_round_trip_and_transaction(
    app: Flask, acme: MessagingOrganization
) -> None:
    acme.send()
    with count_statements(app) as statements:
        sent = acme.send()
    assert statements == []  # the batch, which is one round trip, has an engine of its own
    written = "SELECT m.id, m.xmin = u.xmin FROM messages m JOIN usage_events u ON u.message_id = m.id"
    assert (ids.parse_id("msg", sent["message_id"]), True) in [tuple(row) for row in rows(app, acme.id, written)]


def test_message_in_test_mode_has_no_cost_and_no_usage(app: Flask, acme: MessagingOrganization) -> None:
    sent = acme.send(acme.test)
    assert (sent["usage_recorded"], sent["mode"], sent["cost"]) == (False, "test", "0")
    assert rows(app, acme.id, "SELECT 1 FROM usage_events") == []


def test_acceptance_opens_a_billing_period_when_none_is_open(app: Flask, acme: MessagingOrganization) -> None:
    acme.send()
    clock.freeze_time(clock.now() + timedelta(days=70))
    acme.send()
    assert len(rows(app, acme.id, "SELECT DISTINCT billing_period_id FROM usage_events")) == 2


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"to", "message", "type"}),
        ({**SMS, "to": "08012345678"}, {"to"}),
        ({**SMS, "to": "+19999999999"}, {"to"}),
        ({**SMS, "to": "+234 801 234 5678"}, {"to"}),
        ({**SMS, "to": "ann@customer.example"}, {"to"}),
        ({**SMS, "to": 5}, {"to"}),
        ({**SMS, "message": ""}, {"message"}),
        ({**SMS, "message": "x" * 1601}, {"message"}),
        ({**SMS, "message": "a\0b"}, {"message"}),
        ({**SMS, "type": "fax"}, {"type"}),
        ({**SMS, "subject": "Hi"}, {"subject"}),
        ({**SMS, "colour": "red"}, {"colour"}),
        ({**SMS, "to": "1", "message": "x" * 1601, "subject": "Hi"}, {"to", "message", "subject"}),
        ({**MAIL, "to": "ann@"}, {"to"}),
        ({**MAIL, "to": "ann@localhost"}, {"to"}),
        ({**MAIL, "to": "+2348012345678"}, {"to"}),
        ({**MAIL, "subject": "x" * 201}, {"subject"}),
        ({**MAIL, "subject": "Hi\r\nBcc: bob@acme.example"}, {"subject"}),
        ({**MAIL, "message": "x" * 50_001}, {"message"}),
    ],
)
def test_invalid_message_is_rejected_with_every_invalid_field(
    acme: MessagingOrganization, body: dict[str, Any], fields: set[str]
) -> None:
    response = acme.client.post("/api/v1/messages/send", json=body, headers=acme.live)
    assert response.status_code == 422
    assert response.json["error"]["code"] == "VALIDATION_ERROR"
    assert {problem["field"] for problem in response.json["error"]["details"]["fields"]} == fields


@pytest.mark.parametrize("body", [{**SMS, "message": "x" * 1600}, MAIL, {**MAIL, "message": "x" * 50_000}])
def test_message_of_maximum_length_is_accepted(acme: MessagingOrganization, body: dict[str, Any]) -> None:
    assert acme.client.post("/api/v1/messages/send", json=body, headers=acme.live).status_code == 202


@pytest.mark.parametrize("character", ["\u00e4", "\u8a9e", "\U0001f600"])
def test_size_of_an_email_is_limited_in_characters(acme: MessagingOrganization, character: str) -> None:
    """A12: 50,000 characters that are not ASCII were 413."""

    def send(message: str, *, is_escaped: bool) -> Any:
        body = json.dumps({**MAIL, "message": message}, ensure_ascii=is_escaped).encode()
        return acme.client.post(SEND, data=body, headers=acme.live, content_type="application/json")

    for is_escaped in (True, False):
        assert send(character * 50_000, is_escaped=is_escaped).status_code == 202
    response = send(character * 65_536, is_escaped=True)
    assert (response.status_code, response.json["error"]["code"]) == (413, "BODY_TOO_LARGE")


def test_encoding_and_its_cause_are_shown(acme: MessagingOrganization) -> None:
    """A11: nothing said why a text of 71 characters had two segments."""
    text = "It\u2019s \u201chere\u201d \u2013 now\u2026" + "x" * 60
    sent = acme.send(message=text)
    assert (sent["segments"], sent["encoding"], sent["non_gsm_character"]) == (2, "UCS-2", "\u2019")
    smart = acme.send(message=text, smart_encoding=True)
    assert (smart["segments"], smart["encoding"], smart["non_gsm_character"]) == (1, "GSM-7", None)
    mail = acme.send(**MAIL, smart_encoding=True)
    assert (mail["encoding"], mail["non_gsm_character"]) == (None, None)


def test_text_that_replacement_makes_too_long_is_rejected(acme: MessagingOrganization) -> None:
    body = {**SMS, "message": "\u2026" * 534, "smart_encoding": True}
    response = acme.client.post(SEND, json=body, headers=acme.live)
    assert (response.status_code, response.json["error"]["code"]) == (422, "VALIDATION_ERROR")


def test_recipient_of_a_filter_has_the_form_of_the_send(acme: MessagingOrganization) -> None:
    """A12: the filter compared another form than the send stores, and a + read as a blank gave an empty list."""
    message_id = acme.send(**{**MAIL, "to": "Ann@CUSTOMER.example"})["message_id"]
    for text in ("Ann@CUSTOMER.example", "Ann@customer.example"):
        response = acme.client.get(LIST, query_string={"to": text}, headers=acme.live)
        assert [row["message_id"] for row in response.json["data"]["messages"]] == [message_id]
    for text in (" 2348012345678", "2348012345678", "ann@", "x", "+19999999999"):
        response = acme.client.get(LIST, query_string={"to": text}, headers=acme.live)
        assert (response.status_code, response.json["error"]["details"]["fields"][0]["field"]) == (422, "to")


def test_sending_needs_an_api_key_with_the_write_scope(acme: MessagingOrganization) -> None:
    assert acme.client.post("/api/v1/messages/send", json=SMS).status_code == 401
    response = acme.client.post("/api/v1/messages/send", json=SMS, headers=acme.owner.headers)
    assert (response.status_code, response.json["error"]["code"]) == (401, "MISSING_API_KEY")
    reader = acme.make_key(scopes=["messages:read"])
    response = acme.client.post("/api/v1/messages/send", json=SMS, headers=reader)
    assert (response.status_code, response.json["error"]["code"]) == (403, "INSUFFICIENT_SCOPE")


def test_message_is_shown_to_users_and_to_keys_of_its_mode(acme: MessagingOrganization) -> None:
    sent = acme.send()["message_id"]
    assert acme.show(sent)["status"] == "queued"
    assert acme.show(sent, acme.live)["to"] == SMS["to"]
    assert acme.client.get(f"/api/v1/messages/{sent}", headers=acme.test).status_code == 404
    assert acme.client.get(f"/api/v1/messages/{sent}").status_code == 401


def test_message_of_another_organization_is_not_list_ids(acme: MessagingOrganization) -> None:
    sent = acme.send()["message_id"]
    carol = MessagingOrganization(acme.client, "Carol's", "carol@carols.example")
    missing = acme.client.get("/api/v1/messages/msg_" + "0" * 32, headers=carol.owner.headers)
    for headers in (carol.owner.headers, carol.live):
        response = acme.client.get(f"/api/v1/messages/{sent}", headers=headers)
        assert response.status_code == 404
        assert response.json["error"]["code"] == missing.json["error"]["code"]
        assert response.json["error"]["message"] == missing.json["error"]["message"]
    assert acme.client.get("/api/v1/messages", headers=carol.owner.headers).json["data"]["messages"] == []


def test_pages_hold_every_message_once_newest_first(acme: MessagingOrganization) -> None:
    sent = [acme.send()["message_id"] for _ in range(5)]
    listed, cursor = [], None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        data = acme.client.get("/api/v1/messages", query_string=query, headers=acme.owner.headers).json["data"]
        listed += [message["message_id"] for message in data["messages"]]
        cursor = data["pagination"]["next_cursor"]
        assert data["pagination"]["has_more"] is (cursor is not None)
        if cursor is None:
            break
    assert listed == sent[::-1]


def test_list_of_messages_is_filtered(acme: MessagingOrganization, work: Work) -> None:
    first_day = clock.now().date().isoformat()
    live = acme.send()["message_id"]
    test = acme.send(acme.test)["message_id"]
    work()
    failed = acme.send(to="+15005550001")["message_id"]
    mail = acme.client.post("/api/v1/messages/send", json=MAIL, headers=acme.live).json["data"]["message_id"]

    def list_ids(headers: dict[str, str] | None = None, **query: str) -> set[str]:
        response = acme.client.get("/api/v1/messages", query_string=query, headers=headers or acme.owner.headers)
        assert response.status_code == 200, response.json
        return {message["message_id"] for message in response.json["data"]["messages"]}

    last_day = clock.now().date().isoformat()
    assert list_ids() == {live, test, failed, mail}
    assert list_ids(status="delivered") == {live, test}
    assert list_ids(type="email") == {mail}
    assert list_ids(mode="test") == list_ids(acme.test) == {test}
    assert list_ids(acme.live) == {live, failed, mail}
    assert list_ids(to="+15005550001") == {failed}
    assert list_ids(start_date=first_day, end_date=last_day) == {live, test, failed, mail}
    assert list_ids(start_date="2020-01-01", end_date="2020-01-31") == set()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "WyJhIiwiYiJd"}, "cursor"),
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"status": "lost"}, "status"),
        ({"start_date": "2026-13-01"}, "start_date"),
        ({"start_date": "2026-02-02", "end_date": "2026-02-01"}, None),
        ({"colour": "red"}, "colour"),
    ],
)
def test_invalid_query_is_rejected_with_its_field(
    acme: MessagingOrganization, query: dict[str, str], field: str | None
) -> None:
    response = acme.client.get("/api/v1/messages", query_string=query, headers=acme.owner.headers)
    assert response.status_code == 422
    if field:
        assert [problem["field"] for problem in response.json["error"]["details"]["fields"]] == [field]


def test_messages_are_accepted_without_redis(
    app: Flask, acme: MessagingOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_pool = redis.ConnectionPool.from_url("unix:///nonexistent/redis.sock")
    monkeypatch.setattr(limiter.get_storage(), "backend", backends.connect("unix:///nonexistent/redis.sock"))
    monkeypatch.setitem(app.extensions, "redis", redis.Redis(connection_pool=broken_pool))
    sent = [acme.send()["message_id"] for _ in range(5)]
    assert len(rows(app, acme.id, "SELECT 1 FROM usage_events")) == len(sent)
    monkeypatch.undo()
    make_due(app, acme.id)


def cancel_many(acme: MessagingOrganization, headers: Headers, *message_ids: str) -> tuple[list[str], dict[str, str]]:
    """Cancel messages, and return the ids of the canceled ones and why the others were skipped."""
    response = acme.client.post(f"{LIST}/cancel", json={"message_ids": message_ids}, headers=headers)
    assert response.status_code == 200, response.json
    data = response.json["data"]
    assert data["count"] == len(data["messages"])
    assert all((message["status"], message["cost"]) == ("canceled", "0") for message in data["messages"])
    canceled = [message["message_id"] for message in data["messages"]]
    return canceled, {one["message_id"]: one["reason"] for one in data["skipped"]}


def test_many_queued_messages_are_canceled_each_once(
    app: Flask, client: FlaskClient, acme: MessagingOrganization, work: Work
) -> None:
    other = MessagingOrganization(client, "Other", "carol@other.example")
    delivered = acme.send()["message_id"]
    work()
    foreign = other.send()["message_id"]
    queued = [acme.send()["message_id"] for _ in range(3)]
    skipped = {delivered: "not_cancelable", foreign: "not_found"}
    assert cancel_many(acme, acme.live, delivered, *queued, foreign, *queued) == (queued, skipped)
    assert cancel_many(acme, acme.owner.headers, *queued) == ([], dict.fromkeys(queued, "not_cancelable"))
    assert other.show(foreign)["status"] == "queued"
    work()
    assert [acme.show(message_id)["status"] for message_id in queued] == ["canceled"] * 3
    reversals = rows(app, acme.id, "SELECT quantity FROM usage_events WHERE reversal_of IS NOT NULL")
    assert [row.quantity for row in reversals] == [-1, -1, -1]
    audited = rows(app, acme.id, "SELECT FROM audit_events WHERE action = 'message.canceled'")
    assert len(audited) == 3


def test_key_cancels_messages_of_its_own_mode_only(acme: MessagingOrganization) -> None:
    message_ids = [acme.send(key)["message_id"] for key in (acme.live, acme.test)]
    live, test = message_ids
    assert cancel_many(acme, acme.test, *message_ids) == ([test], {live: "not_found"})
    assert cancel_many(acme, acme.owner.headers, *message_ids) == ([live], {test: "not_cancelable"})


def test_messages_that_two_requests_cancel_are_canceled_and_reversed_once(
    app: Flask, acme: MessagingOrganization
) -> None:
    """The second request meets the rows of the first before it commits, in the opposite order."""
    message_ids = [ids.parse_id("msg", acme.send()["message_id"]) for _ in range(5)]
    principal = Principal(kind="user", id=ids.parse_id("usr", acme.owner.user_id), organization_id=acme.id)

    def cancel(chosen: list[UUID]) -> int:
        with acme.transaction() as session:
            return messages.cancel_messages(session, principal, chosen).count

    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(cancel, [message_ids, message_ids[::-1]]))
    assert sorted(counts) == [0, 5]
    reversals = rows(app, acme.id, "SELECT FROM usage_events WHERE reversal_of IS NOT NULL")
    assert len(reversals) == 5


@pytest.mark.parametrize("message_ids", [[], [f"msg_{'0' * 32}"] * 101, ["key_1"], None])
def test_one_to_a_hundred_messages_are_canceled_at_once(acme: MessagingOrganization, message_ids: Any) -> None:
    response = acme.client.post(f"{LIST}/cancel", json={"message_ids": message_ids}, headers=acme.live)
    assert response.json["error"]["code"] == "VALIDATION_ERROR"
