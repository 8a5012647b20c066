"""An organization that listens: its endpoints over HTTP, and events of its own."""

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
    """Let loopback be an address like any other."""
    if "app" in request.fixturenames:
        app: Flask = request.getfixturevalue("app")
        monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", ["127.0.0.0/8"])


@dataclass
class Company:
    """What alice's company has and does."""

    app: Flask
    client: FlaskClient
    owner: Person

    @property
    def id(self) -> UUID:
        return ids.parse_id("org", self.owner.organization_id)

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        options.setdefault("headers", self.owner.headers)
        return self.client.open(f"{API}{path}", method=method, json=body, **options)

    def listen(self, url: str = URL, **facts: Any) -> dict[str, Any]:
        """A new endpoint, with its secret."""
        answer = self.call("POST", "/endpoints", {"url": url, **facts})
        assert answer.status_code == 201, answer.json
        made: dict[str, Any] = answer.json["data"]
        return made

    def report(self, kind: str = "invoice.paid", **data: Any) -> None:
        """Something happens."""
        with self.app.app_context(), tenancy.tenant_session(self.id) as session:
            events.publish(session, self.id, kind, EventSubject(ids.new_id()), data)

    def rows(self, sql: str) -> list[Any]:
        """What the company sees."""
        with self.app.app_context(), tenancy.tenant_session(self.id) as session:
            return list(session.execute(text(sql)).all())

    def run(self, sql: str, **values: Any) -> None:
        """Write as the deliverer would."""
        with self.app.app_context(), tenancy.tenant_session(self.id) as session:
            session.execute(text(sql), values)

    def end(self, status: str) -> None:
        """Every delivery that waits ends so."""
        self.run(
            """UPDATE webhook_deliveries SET status = :status, next_at = NULL, finished_at = now(), attempts = 10
              WHERE status = 'queued'""",
            status=status,
        )


@pytest.fixture
def acme(app: Flask, client: FlaskClient, alice: Person) -> Company:
    """Alice's company."""
    return Company(app, client, alice)


def deliver(app: Flask) -> None:
    with app.app_context():
        drain()


def endpoint_of(acme: Company) -> Any:
    return acme.rows("SELECT * FROM webhook_endpoints ORDER BY id")[0]
