"""External ids: services, operators and commands name an organization, and events use the name."""

import json
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.accounts import User
from tests.support.console import REASON, sign_in_operator
from tests.support.usage_events import EventSender, ledger_rows, make_event, publish_meter


@pytest.fixture
def sender(app: Flask, client: FlaskClient) -> EventSender:
    """A service that reports lookups."""
    publish_meter(app)
    return EventSender(client)


def put(sender: EventSender, organization_id: str, external_id: Any) -> tuple[int, Any]:
    """Status, and external id or code, of the answer."""
    path = f"/api/v1/organizations/{organization_id}/external-id"
    response = sender.client.put(path, json={"external_id": external_id}, headers=sender.headers)
    if response.status_code != 200:
        return response.status_code, response.json["error"]["code"]
    return 200, response.json["data"]["organization"]["external_id"]


def test_a_service_names_an_organization_and_its_events(app: Flask, sender: EventSender, alice: User) -> None:
    name = f"customer/{uuid4()}"
    assert sender.codes(make_event(name)) == ["UNKNOWN_SUBJECT"]
    assert put(sender, alice.organization_id, name) == (200, name)
    assert sender.send(make_event(name), make_event(alice.organization_id))["accepted"] == 2
    assert len(ledger_rows(app, alice.organization_id)) == 2
    assert alice.call("GET", "/organization")[1]["organization"]["external_id"] == name
    [event] = alice.call("GET", "/organization/audit-log?action=organization.changed")[1]["entries"]
    assert event["data"] == {"before": {"external_id": None}, "after": {"external_id": name}}
    assert event["actor"] == {"type": "system", "id": "lookups"}


def test_an_external_id_names_one_organization(sender: EventSender, alice: User, carol: User) -> None:
    name = str(uuid4())  # a bare UUID is an external id, not one of ours
    assert put(sender, alice.organization_id, name) == (200, name)
    assert put(sender, alice.organization_id, name) == (200, name)
    assert put(sender, carol.organization_id, name) == (409, "EXTERNAL_ID_TAKEN")
    assert put(sender, alice.organization_id, None) == (200, None)
    assert put(sender, carol.organization_id, name) == (200, name)


def test_an_external_id_has_a_form(sender: EventSender, alice: User) -> None:
    for bad in ("", "x" * 256, "a\0", "a\nb", 7, alice.organization_id, "key_" + "0" * 32):
        assert put(sender, alice.organization_id, bad) == (422, "VALIDATION_ERROR"), bad
    clerk = "org_2bXh9yTQ"  # an id of another product
    assert put(sender, alice.organization_id, clerk) == (200, clerk)
    assert put(sender, "org_" + "0" * 32, "nobody") == (404, "NOT_FOUND")
    assert (
        sender.client.put(
            f"/api/v1/organizations/{alice.organization_id}/external-id",
            json={"external_id": "x"},
            headers=alice.headers,
        ).status_code
        == 401
    )


def test_operators_name_an_organization_at_the_console_and_by_command(
    app: Flask, client: FlaskClient, alice: User
) -> None:
    console = sign_in_operator(app, client)
    page = f"/admin/organizations/{alice.organization_id}"
    assert "External ID set to crm 7." in console.run_action(f"{page}/external-id", external_id="crm 7")
    assert "crm 7" in console.read(page)
    assert "External ID removed." in console.run_action(f"{page}/external-id", external_id="")
    command = ["organizations", "set-external-id", alice.organization_id]
    runner = app.test_cli_runner()
    result = runner.invoke(args=[*command, "crm-8", "--reason", REASON, "--json"])
    assert (result.exit_code, json.loads(result.output)) == (0, {"id": alice.organization_id, "external_id": "crm-8"})
    assert runner.invoke(args=[*command, ""]).exit_code == 0
    assert alice.call("GET", "/organization")[1]["organization"]["external_id"] is None
