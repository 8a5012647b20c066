"""Meters and prices of services, and the calls that services make."""

from typing import Any
from uuid import UUID

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import plans, subscriptions
from saas_api.billing.rating import plan_file
from saas_api.core.db import tenancy
from saas_api.usage import meters
from tests.support.accounts import User
from tests.support.services import service_headers

LOOKUPS = {"code": "lookups", "name": "Lookups", "unit": "lookup", "service": "lookups"}


def publish_meter(app: Flask, **content: Any) -> None:
    """Publish the meter "lookups", or another one."""
    with app.app_context():
        meters.publish_meter({**LOOKUPS, **content}, SYSTEM_ACTOR)


def move_to_plan(app: Flask, user: User, code: str = "metered", **content: Any) -> None:
    """Publish a plan that differs from the free one in some of its content, and put an organization on it.

    content: parts of the plan file; prices and entitlements are added to those of the free plan
    """
    with app.app_context():
        with tenancy.system_session("billing.catalogue") as session:
            free = plan_file.to_document(plans.get_plan_content(session, "free@1"))
        for part in ("prices", "entitlements"):
            content[part] = {**free[part], **content.get(part, {})}
        names = {"plan": code, "name": code.title(), "is_public": True}
        plan = {name: value for name, value in free.items() if name != "position"}
        plans.publish_plan({**plan, **names, **content}, SYSTEM_ACTOR)
        with tenancy.tenant_session(UUID(user.organization_id.removeprefix("org_"))) as session:
            organization_id = UUID(user.organization_id.removeprefix("org_"))
            subscriptions.change_plan(session, organization_id, code, "now", SYSTEM_ACTOR)


def verify(client: FlaskClient, token: str, key: str, **body: Any) -> dict[str, Any]:
    """Ask whether a key is valid, as a service does; returns the data of the answer."""
    response = client.post("/api/v1/keys/verify", headers=service_headers(token), json={"key": key, **body})
    assert response.status_code == 200, response.json
    assert response.json is not None
    data: dict[str, Any] = response.json["data"]
    return data


def usage_events(
    app: Flask, columns: str = "meter_code, quantity", table: str = "usage_events"
) -> list[tuple[Any, ...]]:
    """Rows of the ledger in the order of recording."""
    order = "occurred_at" if table.startswith("test") else "recorded_at"
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        return [tuple(row) for row in session.execute(text(f"SELECT {columns} FROM {table} ORDER BY {order}"))]
