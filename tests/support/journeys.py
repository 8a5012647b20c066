"""Steps of the stories, each through HTTP as a client would take it."""

from datetime import datetime

from flask.testing import FlaskClient

Headers = dict[str, str]


def sign_up(client: FlaskClient, company: str, email: str) -> Headers:
    answer = client.post(
        "/api/v1/auth/register",
        json={"organization_name": company, "email": email, "password": "correct horse battery"},
    )
    assert answer.status_code == 201, answer.json
    return {"Authorization": f"Bearer {answer.json['data']['token']}"}


def make_key(client: FlaskClient, person: Headers) -> tuple[str, Headers]:
    answer = client.post("/api/v1/keys", json={"name": "key"}, headers=person)
    assert answer.status_code == 201, answer.json
    return answer.json["data"]["id"], {"X-API-Key": answer.json["data"]["key"]}


def send(client: FlaskClient, key: Headers, text: str = "Hello") -> str:
    answer = client.post(
        "/api/v1/messages/send", json={"to": "+2348012345678", "type": "sms", "message": text}, headers=key
    )
    assert answer.status_code == 202, answer.json
    return str(answer.json["data"]["message_id"])


def organization_of(client: FlaskClient, person: Headers) -> str:
    return str(client.get("/api/v1/auth/me", headers=person).json["data"]["organization"]["id"])


def period_end(client: FlaskClient, person: Headers) -> datetime:
    """When the running period ends; a first period that would last less than a day lasts the next month as well."""
    answer = client.get("/api/v1/billing/subscription", headers=person)
    assert answer.status_code == 200, answer.json
    return datetime.fromisoformat(answer.json["data"]["period"]["ends_at"])
