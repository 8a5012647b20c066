"""A company at the gate: its owner's headers and its keys."""

import time
from typing import Any
from uuid import UUID

from flask.testing import FlaskClient

from saas_api.core import ids

SEND, LIST = "/api/v1/messages/send", "/api/v1/messages"
SMS = {"to": "+2348012345678", "type": "sms", "message": "Hello"}
PASSWORD = "correct horse battery"

Headers = dict[str, str]


def sign_up(client: FlaskClient, name: str = "Acme", email: str = "alice@acme.example") -> Headers:
    answer = client.post(
        "/api/v1/auth/register",
        json={"organization_name": name, "email": email, "password": PASSWORD},
    )
    assert answer.status_code == 201, answer.json
    return {"Authorization": f"Bearer {answer.json['data']['token']}"}


def join(client: FlaskClient, superuser: Any, boss: Headers, email: str, role: str) -> Headers:
    """Somebody of that role in the boss's organization."""
    organization_id = organization_of(client, boss)
    sign_up(client, "Own", email)
    with superuser, superuser.cursor() as cursor:
        joined = (
            "INSERT INTO memberships (organization_id, user_id, role) SELECT %s, id, %s FROM users WHERE email = %s"
        )
        cursor.execute(joined, (str(organization_id), role, email))
    body = {"email": email, "password": PASSWORD, "organization_id": ids.format_id("org", organization_id)}
    answer = client.post("/api/v1/auth/login", json=body)
    return {"Authorization": f"Bearer {answer.json['data']['token']}"}


def organization_of(client: FlaskClient, person: Headers) -> UUID:
    return ids.parse_id("org", client.get("/api/v1/auth/me", headers=person).json["data"]["organization"]["id"])


def make_key(client: FlaskClient, person: Headers, **options: Any) -> tuple[str, Headers]:
    answer = client.post("/api/v1/keys", json={"name": "key", **options}, headers=person)
    assert answer.status_code == 201, answer.json
    return answer.json["data"]["id"], {"X-API-Key": answer.json["data"]["key"]}


def stay_within_a_minute(seconds: float) -> None:
    """Windows are clock minutes: begin one rather than straddle two."""
    left = 60 - time.time() % 60
    if left < seconds:
        time.sleep(left + 0.05)
