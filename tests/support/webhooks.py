"""An organization with endpoints: calls of the webhooks API, published events, and its rows."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from saas_api.webhooks import events
from saas_api.webhooks.events import EventSubject, NewEvent
from saas_api.webhooks.jobs import drain
from tests.support.accounts import User
from tests.support.organizations import Organization

API = "/api/v1/webhooks"
ENDPOINTS = f"{API}/endpoints"
URL = "http://127.0.0.1:9/hook"


@pytest.fixture(autouse=True)
def allowed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow loopback addresses as endpoints."""
    if "app" in request.fixturenames:
        app: Flask = request.getfixturevalue("app")
        monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", ["127.0.0.0/8"])


class WebhookOrganization(Organization):
    """An organization that calls the webhooks API and publishes events."""

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        options.setdefault("headers", self.owner.headers)
        return self.client.open(f"{API}{path}", method=method, json=body, **options)

    def create_endpoint(self, url: str = URL, **fields: Any) -> dict[str, Any]:
        """Create an endpoint and return it with its secret."""
        response = self.call("POST", "/endpoints", {"url": url, **fields})
        assert response.status_code == 201, response.json
        endpoint: dict[str, Any] = response.json["data"]
        return endpoint

    def publish_event(self, event_type: str = "invoice.paid", **data: Any) -> None:
        """Publish a live event of a new subject."""
        with self.transaction() as session:
            events.publish(session, self.id, event_type, EventSubject(ids.new_id()), data)

    def publish_test_event(self, event_type: str = "invoice.paid") -> None:
        """Publish an event of test mode of a new subject."""
        with self.transaction() as session:
            new_event = NewEvent(event_type, EventSubject(ids.new_id()), {}, "test")
            events.publish_many(session, self.id, [new_event])

    def finish_deliveries(self, status: str) -> None:
        """Give every queued delivery a final status."""
        self.execute(
            """UPDATE webhook_deliveries SET status = :status, next_at = NULL, finished_at = now(), attempts = 10
              WHERE status = 'queued'""",
            status=status,
        )


@pytest.fixture
def acme(client: FlaskClient, alice: User) -> WebhookOrganization:
    """The organization of alice."""
    return WebhookOrganization(client, alice)


def deliver(app: Flask) -> None:
    with app.app_context():
        drain()


def read_endpoint(acme: WebhookOrganization) -> Any:
    return acme.rows("SELECT * FROM webhook_endpoints ORDER BY id")[0]
