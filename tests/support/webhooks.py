"""An organization with endpoints: calls of the webhooks API, published events, and its rows."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.webhooks import events
from saas_api.webhooks.events import EventSubject
from saas_api.webhooks.jobs import drain
from tests.support.accounts import Person

API = "/api/v1/webhooks"
ENDPOINTS = f"{API}/endpoints"
URL = "http://127.0.0.1:9/hook"


@pytest.fixture(autouse=True)
def allowed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow loopback addresses as endpoints."""
    if "app" in request.fixturenames:
        app: Flask = request.getfixturevalue("app")
        monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", ["127.0.0.0/8"])


@dataclass
class Organization:
    """An organization and its owner."""

    app: Flask
    client: FlaskClient
    owner: Person

    @property
    def id(self) -> UUID:
        return ids.parse_id("org", self.owner.organization_id)

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        options.setdefault("headers", self.owner.headers)
        return self.client.open(f"{API}{path}", method=method, json=body, **options)

    def create_endpoint(self, url: str = URL, **fields: Any) -> dict[str, Any]:
        """Create an endpoint and return it with its secret."""
        answer = self.call("POST", "/endpoints", {"url": url, **fields})
        assert answer.status_code == 201, answer.json
        endpoint: dict[str, Any] = answer.json["data"]
        return endpoint

    def publish_event(self, event_type: str = "invoice.paid", **data: Any) -> None:
        """Publish an event of a new subject."""
        with self.app.app_context(), tenancy.tenant_session(self.id) as session:
            events.publish(session, self.id, event_type, EventSubject(ids.new_id()), data)

    def rows(self, sql: str) -> list[Any]:
        """Read as the organization."""
        with self.app.app_context(), tenancy.tenant_session(self.id) as session:
            return list(session.execute(text(sql)).all())

    def execute(self, sql: str, **values: Any) -> None:
        """Write as the organization."""
        with self.app.app_context(), tenancy.tenant_session(self.id) as session:
            session.execute(text(sql), values)

    def finish_deliveries(self, status: str) -> None:
        """Give every queued delivery a final status."""
        self.execute(
            """UPDATE webhook_deliveries SET status = :status, next_at = NULL, finished_at = now(), attempts = 10
              WHERE status = 'queued'""",
            status=status,
        )


@pytest.fixture
def acme(app: Flask, client: FlaskClient, alice: Person) -> Organization:
    """The organization of alice."""
    return Organization(app, client, alice)


def deliver(app: Flask) -> None:
    with app.app_context():
        drain()


def read_endpoint(acme: Organization) -> Any:
    return acme.rows("SELECT * FROM webhook_endpoints ORDER BY id")[0]
