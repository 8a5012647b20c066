"""A company at the gate: its owner's headers and its keys."""

from typing import Any

from flask.testing import FlaskClient

SEND, LIST = "/api/v1/messages/send", "/api/v1/messages"
SMS = {"to": "+2348012345678", "type": "sms", "message": "Hello"}

Headers = dict[str, str]


def sign_up(client: FlaskClient, name: str = "Acme", email: str = "alice@acme.example") -> Headers:
    answer = client.post(
        "/api/v1/auth/register",
        json={"organization_name": name, "email": email, "password": "correct horse battery"},
    )
    assert answer.status_code == 201, answer.json
    return {"Authorization": f"Bearer {answer.json['data']['token']}"}


def make_key(client: FlaskClient, person: Headers, **options: Any) -> tuple[str, Headers]:
    answer = client.post("/api/v1/keys", json={"name": "key", **options}, headers=person)
    assert answer.status_code == 201, answer.json
    return answer.json["data"]["id"], {"X-API-Key": answer.json["data"]["key"]}
