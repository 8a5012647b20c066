"""Events of an organization that an operator or an unpaid invoice suspends."""

from typing import Any

import jsonschema
import orjson
import pytest

from saas_api.accounts.audit import Actor, OperatorContext
from saas_api.admin import organization_actions
from saas_api.billing import periods, profiles
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.webhooks import event_types
from tests.support.webhooks import WebhookOrganization

REASON = "ticket 4711: requested by the owner"


def events_of(acme: WebhookOrganization) -> list[tuple[str, dict[str, Any]]]:
    payloads = [orjson.loads(row.payload) for row in acme.rows("SELECT payload FROM events ORDER BY sequence")]
    for payload in payloads:
        jsonschema.validate(payload, event_types.get_type(payload["type"]).schema)
    return [(payload["type"], payload["data"]) for payload in payloads]


def test_suspension_by_an_operator_publishes_name_and_slug(acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    operator = OperatorContext(Actor("operator", str(ids.new_id())), REASON)
    with acme.app.app_context():
        organization_actions.suspend(operator, acme.id)
        organization_actions.resume(operator, acme.id)
    [organization] = acme.rows("SELECT name, slug FROM organizations")
    identity = {"object": "organization", "id": acme.owner.organization_id, "name": "Acme", "slug": organization.slug}
    assert events_of(acme) == [
        ("organization.suspended", {**identity, "status": "suspended", "reason": "operator"}),
        ("organization.resumed", {**identity, "status": "active", "reason": None}),
    ]


@pytest.mark.parametrize("standing", ["restricted", "suspended"])
def test_overdue_invoices_publish_name_and_slug(acme: WebhookOrganization, standing: str) -> None:
    acme.create_endpoint()
    with acme.app.app_context(), tenancy.system_session("payments.dunning") as session:
        periods.ensure_account(session, acme.id)
        profiles.set_standing(session, acme.id, standing)
    event_type, data = events_of(acme)[-1]
    assert event_type == f"organization.{standing}"
    assert (data["name"], data["status"], data["reason"]) == ("Acme", standing, "overdue")
