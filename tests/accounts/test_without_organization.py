"""Users without an organization, users who create another one, and members who leave."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.account_mails import audit_events as stored_audit_events
from tests.support.account_mails import post_auth
from tests.support.accounts import AUTH, PASSWORD, User, add_member, sign_in
from tests.support.pages import Browser
from tests.support.team import audit_events, invite, member_roles


@pytest.fixture
def removed(alice: User, bob: User) -> dict[str, str]:
    """Headers of bob, who was removed from his only organization and has signed in again."""
    assert alice.call("DELETE", f"/team/members/{bob.user_id}")[0] == 200
    response = post_auth(bob.client, "/login", email=bob.email, password=PASSWORD)
    assert response.status_code == 200
    assert (response.json["data"]["organization"], response.json["data"]["role"]) == (None, None)
    return {"Authorization": f"Bearer {response.json['data']['token']}"}


def test_user_without_an_organization_creates_one(client: FlaskClient, alice: User, removed: dict[str, str]) -> None:
    """A4: a person removed from their only organization was locked out for good."""
    profile = client.get(f"{AUTH}/me", headers=removed).json["data"]
    assert (profile["organization"], profile["role"]) == (None, None)
    assert (profile["permissions"], profile["organizations"]) == ([], [])
    refused = client.get("/api/v1/organization", headers=removed)
    assert (refused.status_code, refused.json["error"]["code"]) == (403, "NO_ORGANIZATION")
    body = {"name": "Bob & Co", "timezone": "Africa/Lagos"}
    headers = {**removed, "Idempotency-Key": "once"}
    responses = [client.post("/api/v1/organizations", json=body, headers=headers) for _ in range(2)]
    assert [response.status_code for response in responses] == [201, 201]
    assert responses[0].data == responses[1].data
    organization = responses[0].json["data"]["organization"]
    assert (organization["name"], organization["timezone"]) == ("Bob & Co", "Africa/Lagos")
    bob = sign_in(client, "bob@acme.example")
    assert (bob.organization_id, bob.role) == (organization["id"], "owner")
    assert bob.call("POST", "/keys", name="ci")[0] == 201
    assert [event["action"] for event in audit_events(bob)][-1] == "organization.created"


def test_session_without_an_organization_refreshes_and_switches(
    client: FlaskClient, alice: User, removed: dict[str, str]
) -> None:
    data = post_auth(client, "/login", email="bob@acme.example", password=PASSWORD).json["data"]
    data = post_auth(client, "/refresh", refresh_token=data["refresh_token"]).json["data"]
    headers = {"Authorization": f"Bearer {data['token']}"}
    created = client.post("/api/v1/organizations", json={"name": "Bob & Co"}, headers=headers).json["data"]
    body = {"organization_id": created["organization"]["id"]}
    switched = client.post(f"{AUTH}/switch-organization", json=body, headers=headers)
    assert (switched.status_code, switched.json["data"]["role"]) == (200, "owner")


def test_removed_user_joins_again_by_invitation(client: FlaskClient, alice: User, removed: dict[str, str]) -> None:
    token = invite(alice, "bob@acme.example")
    response = client.post("/api/v1/team/accept-invitation", json={"token": token, "password": PASSWORD})
    assert (response.status_code, response.json["data"]["organization"]["id"]) == (200, alice.organization_id)


def test_owner_creates_a_second_organization(client: FlaskClient, alice: User) -> None:
    status, data = alice.call("POST", "/organizations", name="Acme Labs")
    assert (status, data["organization"]["timezone"]) == (201, "UTC")
    profile = client.get(f"{AUTH}/me", headers=alice.headers).json["data"]
    assert [(row["name"], row["role"]) for row in profile["organizations"]] == [
        ("Acme", "owner"),
        ("Acme Labs", "owner"),
    ]
    assert profile["organization"]["name"] == "Acme"


def test_new_organizations_are_limited_per_user(alice: User, carol: User) -> None:
    statuses = [alice.call("POST", "/organizations", name=f"Acme {number}")[0] for number in range(11)]
    assert statuses == [201] * 10 + [429]
    assert carol.call("POST", "/organizations", name="Carol 2")[0] == 201


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": "A", "timezone": "Mars/Olympus"}, {"name": "A", "x": 1}])
def test_invalid_organization_is_rejected(client: FlaskClient, alice: User, body: dict[str, Any]) -> None:
    assert client.post("/api/v1/organizations", json=body, headers=alice.headers).status_code == 422


def test_member_leaves_an_organization(client: FlaskClient, alice: User, carol: User, superuser: Any) -> None:
    add_member(carol, "bob@acme.example", "viewer")
    bob = add_member(alice, "bob@acme.example", "admin")
    token = invite(bob, "dave@acme.example")
    status, data = bob.call("POST", "/team/leave")
    assert (status, data["organization"]["id"], data["role"]) == (200, carol.organization_id, "viewer")
    assert client.get("/api/v1/organization", headers=bob.headers).status_code == 401
    headers = {"Authorization": f"Bearer {data['token']}"}
    assert client.get("/api/v1/organization", headers=headers).status_code == 200
    assert bob.email not in member_roles(alice)
    assert client.post("/api/v1/team/decline-invitation", json={"token": token}).status_code == 400
    assert len(stored_audit_events(superuser, "member.left")) == 1


def test_member_leaves_the_only_organization(client: FlaskClient, bob: User) -> None:
    status, data = bob.call("POST", "/team/leave")
    assert (status, data["organization"], data["role"]) == (200, None, None)
    assert client.get(f"{AUTH}/me", headers={"Authorization": f"Bearer {data['token']}"}).status_code == 200


def test_owner_cannot_leave(alice: User, bob: User) -> None:
    assert alice.call("POST", "/team/leave") == (409, "LAST_OWNER")
    assert alice.call("GET", "/organization")[0] == 200


def test_pages_lead_a_user_without_an_organization_to_a_new_one(
    app: Flask, alice: User, removed: dict[str, str]
) -> None:
    browser = Browser(app)
    response = browser.submit("/login", email="bob@acme.example", password=PASSWORD)
    assert response.location == "/organizations/new"
    for path in ("/dashboard", "/dashboard/billing"):
        assert browser.open(path).location == "/organizations/new"
    for path in ("/dashboard/account", "/dashboard/account/password"):
        page = browser.open(path)
        assert (page.status_code, "/admin" in page.text) == (200, False)
    response = browser.submit("/organizations/new", name="Bob & Co")
    assert (response.status_code, response.location) == (303, "/dashboard")
    assert "Bob &amp; Co" in browser.open("/dashboard").text


def test_switcher_offers_a_new_organization_and_the_team_page_to_leave(app: Flask, alice: User, bob: User) -> None:
    browser = Browser(app, bob)
    assert 'href="/organizations/new"' in browser.open("/dashboard").text
    assert "/dashboard/team/leave" in browser.open("/dashboard/team").text
    assert browser.submit("/dashboard/team/leave").location == "/dashboard"
    assert browser.open("/dashboard").location == "/organizations/new"
    owner = Browser(app, alice)
    assert "/dashboard/team/leave" not in owner.open("/dashboard/team").text
    assert owner.submit("/dashboard/team/leave").status_code == 409
    owner.submit("/organizations/new", name="Acme Labs")
    assert "Acme Labs" in owner.open("/dashboard").text
