"""Replayed requests, and requests with a rejected Idempotency-Key, do not use quota."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.support.accounts import Headers, User, make_key

SEND = "/api/v1/messages/send"
SMS = {"to": "+2348012345678", "type": "sms", "message": "Hello"}


@pytest.fixture
def key(client: FlaskClient, alice: User, superuser: Any) -> Headers:
    """A key of an organization with a quota of two SMS."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute(
            """INSERT INTO organization_limits (organization_id, ceilings, reason)
               SELECT id, '{"sms": 2}', 'a test' FROM organizations"""
        )
    return make_key(client, alice)


def send(client: FlaskClient, key: Headers, idempotency_key: str, text: str = "Hello") -> Any:
    return client.post(SEND, json={**SMS, "message": text}, headers={**key, "Idempotency-Key": idempotency_key})


def test_replayed_requests_do_not_use_quota(client: FlaskClient, key: Headers) -> None:
    responses = [send(client, key, "a") for _ in range(5)]
    assert {response.data for response in responses} == {responses[0].data}
    assert send(client, key, "b").status_code == 202


@pytest.mark.parametrize(
    ("idempotency_key", "code"), [("a", "IDEMPOTENCY_KEY_REUSED"), ("ä", "IDEMPOTENCY_KEY_INVALID")]
)
def test_rejected_idempotency_key_does_not_use_quota(
    client: FlaskClient, key: Headers, idempotency_key: str, code: str
) -> None:
    send(client, key, "a")
    for _ in range(3):
        assert send(client, key, idempotency_key, "Other").json["error"]["code"] == code
    assert send(client, key, "b").status_code == 202
    assert send(client, key, "c").json["error"]["code"] == "QUOTA_EXCEEDED"


def test_last_accepted_request_is_replayed_when_the_quota_is_used_up(client: FlaskClient, key: Headers) -> None:
    send(client, key, "a")
    last = send(client, key, "b")
    again = send(client, key, "b")
    assert (again.status_code, again.data, again.headers["Idempotency-Replayed"]) == (202, last.data, "true")
    assert again.headers["X-RateLimit-Limit"] == "60"
    for idempotency_key, text in (("c", "Hello"), ("b", "Other"), ("ä", "Hello"), ("", "Hello")):
        response = send(client, key, idempotency_key, text)
        assert (response.status_code, response.json["error"]["code"]) == (429, "QUOTA_EXCEEDED")
