"""A key is revoked during requests: accepted messages are delivered, later requests are rejected."""

import threading
from collections.abc import Callable

from flask import Flask
from flask.testing import FlaskClient

from tests.support.accounts import create_key, sign_up

BODY = {"to": "+2348012345678", "type": "sms", "message": "Hello"}


def test_key_revoked_during_requests_is_rejected_from_then_on(
    app: Flask, client: FlaskClient, work: Callable[[], None]
) -> None:
    owner = sign_up(client)
    key_id, key = create_key(client, owner)
    revoked = threading.Event()
    responses: list[tuple[bool, int, str | None]] = []

    def keep_sending() -> None:
        with app.test_client() as own:
            for _ in range(7):
                was_revoked = revoked.is_set()
                response = own.post("/api/v1/messages/send", json=BODY, headers=key)
                responses.append(
                    (was_revoked, response.status_code, (response.json.get("data") or {}).get("message_id"))
                )

    senders = [threading.Thread(target=keep_sending) for _ in range(4)]
    for sender in senders:
        sender.start()
    while sum(status == 202 for _, status, _ in responses) < 4:
        pass
    assert client.delete(f"/api/v1/keys/{key_id}", headers=owner.headers).status_code == 200
    revoked.set()
    for sender in senders:
        sender.join()

    assert {status for _, status, _ in responses} <= {202, 401}
    assert all(status == 401 for was_revoked, status, _ in responses if was_revoked)
    assert any(was_revoked for was_revoked, _, _ in responses)

    work()
    accepted = [message_id for _, status, message_id in responses if status == 202]
    messages = [
        client.get(f"/api/v1/messages/{message_id}", headers=owner.headers).json["data"] for message_id in accepted
    ]
    assert {message["status"] for message in messages} == {"delivered"}
    summary = client.get("/api/v1/usage", headers=owner.headers).json["data"]["summary"]
    assert summary["successful_requests"] == len(accepted)
