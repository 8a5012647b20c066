"""Olga at the console: her browser, and what the logs of acts say afterwards."""

from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import operators
from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.support.accounts import Person
from tests.support.pages import Browser

REASON = "ticket 4711: asked for by the owner"


def appoint(app: Flask, person: Person, office: str = "admin") -> None:
    """Make somebody an operator."""
    with app.app_context(), tenancy.system_session("operator.command") as session:
        operators.grant_operator_role(session, ids.parse_id("usr", person.user_id), office)


def desk(app: Flask, olga: Person, office: str = "admin") -> Browser:
    """Olga's browser, as an operator who signed in a moment ago."""
    appoint(app, olga, office)
    return Browser(app, olga)


def one(person: Person) -> str:
    """The page of a person's organization."""
    return f"/admin/organizations/{person.organization_id}"


def rows(app: Flask, sql: str, **values: Any) -> list[Any]:
    """What the whole platform has."""
    with app.app_context(), tenancy.system_session("operator.command") as session:
        return list(session.execute(sa.text(sql), values))


def acts(app: Flask, action: str) -> list[tuple[str, str, str]]:
    """Every entry of an action: whose log it is in ("platform" or the organization's name), who, and why."""
    found = rows(
        app,
        """SELECT coalesce(o.name, 'platform') AS log, a.actor_type, a.data ->> 'reason' AS reason
           FROM audit_events a LEFT JOIN organizations o ON o.id = a.organization_id
           WHERE action = :action ORDER BY a.id""",
        action=action,
    )
    return [tuple(row) for row in found]


def send(client: FlaskClient, key: dict[str, str]) -> tuple[int, str]:
    """Send a message: the status, and the code where it is refused."""
    body = {"to": "+2348012345678", "type": "sms", "message": "Hello"}
    answer = client.post("/api/v1/messages/send", json=body, headers=key)
    return answer.status_code, "" if answer.json["success"] else answer.json["error"]["code"]
