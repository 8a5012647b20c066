"""An organization with a live and a test key, and helpers that send and read messages."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock, ids
from saas_api.core.db import engine, tenancy

SMS = {"to": "+2348012345678", "type": "sms", "message": "Hello"}
MAIL = {"to": "ann@customer.example", "type": "email", "subject": "Hi", "message": "Hello"}

Work = Callable[[], None]


class Organization:
    """An organization, its owner's token and one key of each mode."""

    def __init__(self, client: FlaskClient, name: str, email: str) -> None:
        self.client = client
        answer = client.post(
            "/api/v1/auth/register",
            json={"organization_name": name, "email": email, "password": "correct horse battery"},
        )
        assert answer.status_code == 201, answer.json
        self.owner = {"Authorization": f"Bearer {answer.json['data']['token']}"}
        self.id = ids.parse_id("org", answer.json["data"]["organization"]["id"])
        self.live, self.test = self.make_key(mode="live"), self.make_key(mode="test")

    def make_key(self, **options: Any) -> dict[str, str]:
        answer = self.client.post("/api/v1/keys", json={"name": "key", **options}, headers=self.owner)
        assert answer.status_code == 201, answer.json
        return {"X-API-Key": answer.json["data"]["key"]}

    def send(self, key: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
        answer = self.client.post("/api/v1/messages/send", json={**SMS, **changes}, headers=key or self.live)
        assert answer.status_code == 202, answer.json
        return dict(answer.json["data"])

    def show(self, message_id: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        answer = self.client.get(f"/api/v1/messages/{message_id}", headers=headers or self.owner)
        assert answer.status_code == 200, answer.json
        return dict(answer.json["data"])


def rows(app: Flask, organization_id: UUID, sql: str) -> list[Any]:
    with app.app_context(), tenancy.tenant_session(organization_id) as session:
        return list(session.execute(sa.text(sql)))


def provider_calls(app: Flask, sql: str = "SELECT message_id, outcome, calls FROM mock_sends") -> list[Any]:
    """Calls that the mock provider recorded."""
    with app.app_context(), tenancy.system_session("providers.mock") as session:
        return list(session.execute(sa.text(sql)))


def make_due(app: Flask, organization_id: UUID) -> None:
    """Make every open message due now, and end every lease."""
    with app.app_context(), tenancy.tenant_session(organization_id) as session:
        session.execute(sa.text("UPDATE messages SET next_at = now() WHERE next_at IS NOT NULL"))


def queue_many(app: Flask, organization_id: UUID, count: int, recipient: str = SMS["to"]) -> list[UUID]:
    """Insert queued test messages without a wake-up."""
    message_ids = [ids.new_id() for _ in range(count)]
    insert = """
        INSERT INTO messages (organization_id, id, mode, channel, recipient, body, next_at, accepted_at, expires_at)
        SELECT %(org)s, unnest(%(ids)s::uuid[]), 'test', 'sms', %(to)s, 'x', now(), %(at)s, now() + interval '24 h'"""
    values = {"org": organization_id, "ids": message_ids, "to": recipient, "at": clock.now()}
    with app.app_context():
        engine.execute_batch([tenancy.tenant_scope_statement(organization_id), (insert, values)])
    return message_ids
