"""An organization with a live and a test key, and helpers that send and read messages."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock, ids
from saas_api.core.db import engine, tenancy
from tests.support.accounts import Headers, make_key, sign_up
from tests.support.organizations import Organization

SEND, LIST = "/api/v1/messages/send", "/api/v1/messages"
SMS = {"to": "+2348012345678", "type": "sms", "message": "Hello"}
MAIL = {"to": "ann@customer.example", "type": "email", "subject": "Hi", "message": "Hello"}

Work = Callable[[], None]


class MessagingOrganization(Organization):
    """An organization with one key of each mode."""

    def __init__(self, client: FlaskClient, name: str, email: str) -> None:
        super().__init__(client, sign_up(client, email, name))
        self.live, self.test = self.make_key(mode="live"), self.make_key(mode="test")

    def make_key(self, **options: Any) -> Headers:
        return make_key(self.client, self.owner, **options)

    def send(self, key: Headers | None = None, **changes: Any) -> dict[str, Any]:
        """Send a message and return the data of the response."""
        response = self.client.post(SEND, json={**SMS, **changes}, headers=key or self.live)
        assert response.status_code == 202, response.json
        return dict(response.json["data"])

    def show(self, message_id: str, headers: Headers | None = None) -> dict[str, Any]:
        response = self.client.get(f"{LIST}/{message_id}", headers=headers or self.owner.headers)
        assert response.status_code == 200, response.json
        return dict(response.json["data"])


def send_message(client: FlaskClient, key: Headers, **changes: Any) -> str:
    """Send a message and return its id."""
    response = client.post(SEND, json={**SMS, **changes}, headers=key)
    assert response.status_code == 202, response.json
    return str(response.json["data"]["message_id"])


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
