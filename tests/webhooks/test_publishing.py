"""Published events: transactions, subscriptions, duplicates, payload size, and their list."""

from typing import Any

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.webhooks import event_types, events, payload
from saas_api.webhooks.events import EventSubject
from tests.support.webhooks import WebhookOrganization


class Broken(Exception):
    """An error after the publication."""


def test_organization_without_endpoints_stores_no_events(acme: WebhookOrganization) -> None:
    acme.publish_event()
    assert acme.rows("SELECT FROM events") == []


def test_event_has_a_delivery_for_each_subscribed_endpoint(acme: WebhookOrganization) -> None:
    default = acme.create_endpoint()
    acme.create_endpoint(event_types=["invoice.paid"])
    for event_type in ("invoice.paid", "invoice.voided"):
        acme.publish_event(event_type)
    counts = {
        row.type: row.count
        for row in acme.rows("""SELECT e.type, count(*) FROM events e JOIN webhook_deliveries d
          ON d.event_id = e.id GROUP BY 1""")
    }
    assert counts == {"invoice.paid": 2, "invoice.voided": 1}
    response = acme.call("GET", f"/endpoints/{default['id']}/deliveries", query_string={"event_type": "invoice.paid"})
    assert [delivery["event_type"] for delivery in response.json["data"]["deliveries"]] == ["invoice.paid"]


def test_accepted_message_is_delivered_to_explicit_subscribers_only(acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    acme.publish_event("message.accepted")
    assert acme.rows("SELECT FROM webhook_deliveries") == []
    acme.create_endpoint(event_types=["message.accepted"])
    acme.publish_event("message.accepted")
    assert len(acme.rows("SELECT FROM webhook_deliveries")) == 1


def test_same_version_of_a_subject_is_published_once(acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    subject = ids.new_id()

    def publish(session: Session, version: int) -> None:
        events.publish(session, acme.id, "invoice.paid", EventSubject(subject, version), {})

    for version in (1, 1, 2):
        with acme.app.app_context(), tenancy.tenant_session(acme.id) as session:
            publish(session, version)
    assert len(acme.rows("SELECT FROM events")) == len(acme.rows("SELECT FROM webhook_deliveries")) == 2


def test_event_of_a_rolled_back_transaction_is_not_stored(acme: WebhookOrganization) -> None:
    acme.create_endpoint()

    def fail() -> None:
        with acme.app.app_context(), tenancy.tenant_session(acme.id) as session:
            events.publish(session, acme.id, "invoice.paid", EventSubject(ids.new_id()), {})
            raise Broken

    with pytest.raises(Broken):
        fail()
    assert acme.rows("SELECT FROM events") == []


def test_oversized_payload_is_published_thin(acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    acme.publish_event(object="invoice", id="inv_1", status="paid", lines=["é" * 1000] * 40)
    [event] = acme.call("GET", "/events").json["data"]["events"]
    assert event["payload"]["data"] == {"object": "invoice", "id": "inv_1", "status": "paid"}


def test_thin_payload_keeps_the_envelope(acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    acme.publish_event(object="invoice", id="inv_1", status="paid", total_amount="1.00")
    [row] = acme.rows("SELECT payload FROM events")
    thin: Any = acme.app.json.loads(payload.build_thin_payload(row.payload))
    full: Any = acme.app.json.loads(row.payload)
    assert thin == {**full, "data": {"object": "invoice", "id": "inv_1", "status": "paid"}}


def test_event_is_listed_with_the_payload_that_is_sent(acme: WebhookOrganization, app: Flask) -> None:
    acme.create_endpoint()
    acme.publish_event(name="Zoë")
    [row] = acme.rows("SELECT payload FROM events")
    [event] = acme.call("GET", "/events", query_string={"event_type": "invoice.paid"}).json["data"]["events"]
    assert event["payload"] == app.json.loads(row.payload)
    assert event["payload"]["id"] == event["id"]
    assert event["payload"]["organization_id"] == acme.owner.organization_id
    assert acme.call("GET", "/events", query_string={"event_type": "invoice.voided"}).json["data"]["events"] == []


def test_events_are_listed_newest_first_in_pages(acme: WebhookOrganization) -> None:
    acme.create_endpoint()
    for event_type in ("invoice.finalized", "invoice.paid", "invoice.voided"):
        acme.publish_event(event_type)
    first = acme.call("GET", "/events", query_string={"limit": 2}).json["data"]
    cursor = first["pagination"]["next_cursor"]
    second = acme.call("GET", "/events", query_string={"limit": 2, "cursor": cursor}).json["data"]
    listed = [event["type"] for event in first["events"] + second["events"]]
    assert listed == ["invoice.voided", "invoice.paid", "invoice.finalized"]
    assert not second["pagination"]["has_more"]


def test_every_event_type_is_listed_with_schema_and_example(acme: WebhookOrganization) -> None:
    types = acme.call("GET", "/event-types").json["data"]["event_types"]
    assert [entry["type"] for entry in types] == sorted(event_types.names())
    assert all(entry["schema"]["properties"]["type"] == {"const": entry["example"]["type"]} for entry in types)
