"""External ids: services, operators and commands name an organization, and events use the name."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import organizations
from saas_api.accounts.audit import Actor
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.db.engine import db
from tests.support.accounts import User
from tests.support.console import REASON, sign_in_operator
from tests.support.database_pool import single_connection
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


def test_changes_at_once_need_one_connection(
    app: Flask, context: Flask, alice: User, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(user: User) -> None:
        with app.app_context():
            organizations.set_external_id(
                ids.parse_id("org", user.organization_id), str(uuid4()), Actor("system", "tests")
            )

    options = {**app.config["SQLALCHEMY_ENGINE_OPTIONS"], "pool_size": 1, "max_overflow": 0, "pool_timeout": 30}
    only = sa.create_engine(db.engine.url, **options)
    monkeypatch.setitem(db.engines, None, only)
    with single_connection(app, monkeypatch), ThreadPoolExecutor(4) as threads:
        assert list(threads.map(name, [alice, carol, alice, carol])) == [None] * 4
    only.dispose()


def test_a_change_before_another_has_released_its_reservations_keeps_its_own(
    context: Flask, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization_id, names = ids.parse_id("org", alice.organization_id), [str(uuid4()) for _ in range(3)]
    release, later = organizations._release_external_ids, names[2:]

    def change_before(released_of: UUID) -> None:
        if later:
            organizations.set_external_id(organization_id, later.pop(), Actor("system", "tests"))
        release(released_of)

    organizations.set_external_id(organization_id, names[0], Actor("system", "tests"))
    monkeypatch.setattr(organizations, "_release_external_ids", change_before)
    organizations.set_external_id(organization_id, names[1], Actor("system", "tests"))
    reserved = "SELECT external_id FROM external_ids WHERE owner_id = :id"
    with tenancy.system_session("organizations.external_ids") as session:
        assert session.scalars(sa.text(reserved), {"id": organization_id}).all() == [names[2]]


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
