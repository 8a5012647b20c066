"""A repeat under an Idempotency-Key, and a call that is refused, take nothing from the quota."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.support.accounts import Headers, Person, make_key

SEND = "/api/v1/messages/send"
SMS = {"to": "+2348012345678", "type": "sms", "message": "Hello"}


@pytest.fixture
def key(client: FlaskClient, alice: Person, superuser: Any) -> Headers:
    """A key of a company that may send two SMS in a period."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute(
            """INSERT INTO organization_limits (organization_id, ceilings, reason)
               SELECT id, '{"sms": 2}', 'a test' FROM organizations"""
        )
    return make_key(client, alice)


def send(client: FlaskClient, key: Headers, once: str, text: str = "Hello") -> Any:
    return client.post(SEND, json={**SMS, "message": text}, headers={**key, "Idempotency-Key": once})


def test_repeats_take_nothing_from_the_quota(client: FlaskClient, key: Headers) -> None:
    answers = [send(client, key, "a") for _ in range(5)]
    assert {answer.data for answer in answers} == {answers[0].data}
    assert send(client, key, "b").status_code == 202


@pytest.mark.parametrize(("once", "code"), [("a", "IDEMPOTENCY_KEY_REUSED"), ("ä", "IDEMPOTENCY_KEY_INVALID")])
def test_a_key_that_is_refused_takes_nothing_from_the_quota(
    client: FlaskClient, key: Headers, once: str, code: str
) -> None:
    send(client, key, "a")
    for _ in range(3):
        assert send(client, key, once, "Other").json["error"]["code"] == code
    assert send(client, key, "b").status_code == 202
    assert send(client, key, "c").json["error"]["code"] == "QUOTA_EXCEEDED"


def test_what_was_accepted_last_is_answered_again_although_the_quota_is_used_up(
    client: FlaskClient, key: Headers
) -> None:
    send(client, key, "a")
    last = send(client, key, "b")
    again = send(client, key, "b")
    assert (again.status_code, again.data, again.headers["Idempotency-Replayed"]) == (202, last.data, "true")
    assert again.headers["X-RateLimit-Limit"] == "60"
    for once, text in (("c", "Hello"), ("b", "Other"), ("ä", "Hello"), ("", "Hello")):
        answer = send(client, key, once, text)
        assert (answer.status_code, answer.json["error"]["code"]) == (429, "QUOTA_EXCEEDED")
