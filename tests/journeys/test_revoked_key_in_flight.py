"""A key is revoked while its requests are under way: what was admitted is kept, what comes after is refused."""

import threading
from collections.abc import Callable

from flask import Flask
from flask.testing import FlaskClient

from tests.support.journeys import make_key, sign_up

BODY = {"to": "+2348012345678", "type": "sms", "message": "Hello"}


def test_key_revoked_during_requests_is_rejected_from_then_on(
    app: Flask, client: FlaskClient, work: Callable[[], None]
) -> None:
    person = sign_up(client, "Acme", "alice@acme.example")
    key_id, key = make_key(client, person)
    revoked = threading.Event()
    seen: list[tuple[bool, int, str | None]] = []

    def keep_sending() -> None:
        with app.test_client() as own:
            for _ in range(7):
                was_revoked = revoked.is_set()
                answer = own.post("/api/v1/messages/send", json=BODY, headers=key)
                seen.append((was_revoked, answer.status_code, (answer.json.get("data") or {}).get("message_id")))

    senders = [threading.Thread(target=keep_sending) for _ in range(4)]
    for sender in senders:
        sender.start()
    while sum(status == 202 for _, status, _ in seen) < 4:
        pass
    assert client.delete(f"/api/v1/keys/{key_id}", headers=person).status_code == 200
    revoked.set()
    for sender in senders:
        sender.join()

    assert {status for _, status, _ in seen} <= {202, 401}
    assert all(status == 401 for was_revoked, status, _ in seen if was_revoked)
    assert any(was_revoked for was_revoked, _, _ in seen)

    work()
    accepted = [message_id for _, status, message_id in seen if status == 202]
    shown = [client.get(f"/api/v1/messages/{message_id}", headers=person).json["data"] for message_id in accepted]
    assert {message["status"] for message in shown} == {"delivered"}
    assert client.get("/api/v1/usage", headers=person).json["data"]["summary"]["successful_requests"] == len(accepted)
