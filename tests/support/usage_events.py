"""A service that reports usage events, and what the ledger has of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.usage import meters
from tests.support.accounts import Headers
from tests.support.services import create_service, service_headers

LOOKUPS = {"code": "lookups", "name": "Lookups", "unit": "lookup", "dimensions": ["model"]}


def publish_meter(app: Flask, **content: Any) -> str:
    """Publish a meter that differs from LOOKUPS in some fields, and return its code."""
    document = {**LOOKUPS, **content}
    with app.app_context():
        meters.publish_meter(document, SYSTEM_ACTOR)
    return str(document["code"])


def make_event(subject: str, /, **attributes: Any) -> dict[str, Any]:
    """An event of the meter "lookups" with an id of its own; an attribute that is None is left out."""
    event = {"id": str(uuid4()), "type": "lookups", "subject": subject, **attributes}
    return {name: value for name, value in event.items() if value is not None}


@dataclass
class EventSender:
    """A service with its token."""

    client: FlaskClient
    name: str = "lookups"
    headers: Headers = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.headers = self.headers or service_headers(create_service(self.client.application, self.name))

    def post(self, events: Sequence[Any], **options: Any) -> Any:
        """The response to a batch in plain JSON."""
        return self.client.post("/api/v1/events", json={"events": events}, headers=self.headers, **options)

    def send(self, *events: Any) -> dict[str, Any]:
        """The data of the response to a batch, without the messages of its errors."""
        response = self.post(events)
        assert response.status_code == 200, response.json
        data: dict[str, Any] = response.json["data"]
        assert all(error.pop("message") for error in data["errors"])
        return data

    def codes(self, *events: Any) -> list[str]:
        """Codes of the rejected events."""
        return [error["code"] for error in self.send(*events)["errors"]]


def ledger_rows(
    app: Flask, organization_id: str, columns: str = "idempotency_key, quantity", table: str = "usage_events"
) -> list[Any]:
    """Rows of an organization in the ledger, or in another table, in the order of recording."""
    owner: UUID = ids.parse_id("org", organization_id)
    with app.app_context(), tenancy.tenant_session(owner) as session:
        statement = text(f"SELECT {columns} FROM {table} ORDER BY occurred_at, id")
        return [tuple(row) for row in session.execute(statement)]
