"""Accepting an invitation: a new user gets an account, an existing one needs its password."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.account_mails import (
    NEW_PASSWORD,
    audit_events,
    error_of,
    execute,
    expire_links,
    mail_texts,
    mailed_tokens,
    post_auth,
)
from tests.support.accounts import AUTH, PASSWORD, User, sign_in

DAVE = "dave@acme.example"


def invite(client: FlaskClient, superuser: Any, inviter: User, email: str = DAVE, role: str = "member") -> str:
    """Invite a user; returns the token in the mail."""
    body = {"email": email, "role": role}
    response = client.post("/api/v1/team/invite", json=body, headers=inviter.headers)
    assert response.status_code == 201, response.json
    return mailed_tokens(superuser, "invitation", email)[-1]


def accept(client: FlaskClient, token: str, **body: Any) -> Any:
    return client.post("/api/v1/team/accept-invitation", json={"token": token, **body})


def members(client: FlaskClient, user: User) -> dict[str, str]:
    response = client.get("/api/v1/team/members", headers=user.headers)
    return {member["email"]: member["role"] for member in response.json["data"]["members"]}


def test_new_user_joins_with_an_account_and_a_session(client: FlaskClient, alice: User, superuser: Any) -> None:
    response = accept(client, invite(client, superuser, alice, role="billing"), password=NEW_PASSWORD, full_name="Dave")
    assert response.status_code == 200
    data = response.json["data"]
    assert (data["user"]["email"], data["user"]["full_name"], data["role"]) == (DAVE, "Dave", "billing")
    assert data["organization"]["id"] == alice.organization_id
    profile = client.get(f"{AUTH}/me", headers={"Authorization": f"Bearer {data['token']}"}).json["data"]
    assert (profile["role"], [organization["name"] for organization in profile["organizations"]]) == (
        "billing",
        ["Acme"],
    )
    assert members(client, alice) == {alice.email: "owner", DAVE: "billing"}
    sign_in(client, DAVE, NEW_PASSWORD)
    assert len(audit_events(superuser, "invitation.accepted")) == 1


def test_accepting_an_invitation_verifies_the_address(client: FlaskClient, alice: User, superuser: Any) -> None:
    response = accept(client, invite(client, superuser, alice), password=NEW_PASSWORD)
    assert response.json["data"]["user"]["email_verified"]
    assert mail_texts(superuser, "verify_email", DAVE) == []
    assert len(audit_events(superuser, "user.email_verified")) == 1


def test_existing_user_joins_with_the_password_of_the_account(
    client: FlaskClient, alice: User, carol: User, superuser: Any
) -> None:
    token = invite(client, superuser, alice, carol.email.upper(), "viewer")
    data = accept(client, token, password=PASSWORD, full_name="Somebody else").json["data"]
    assert (data["user"]["id"], data["user"]["full_name"]) == (carol.user_id, "")
    assert (data["organization"]["id"], data["role"]) == (alice.organization_id, "viewer")
    assert members(client, alice)[carol.email] == "viewer"
    assert members(client, carol) == {carol.email: "owner"}


@pytest.mark.parametrize("body", [{}, {"password": "another"}, {"password": ""}])
def test_wrong_password_does_not_join_and_keeps_the_link(
    client: FlaskClient, alice: User, carol: User, superuser: Any, body: dict[str, str]
) -> None:
    token = invite(client, superuser, alice, carol.email)
    response = accept(client, token, **body)
    assert error_of(response) == (
        (422, "VALIDATION_ERROR") if body.get("password") == "" else (401, "INVALID_CREDENTIALS")
    )
    assert members(client, alice) == {alice.email: "owner"}
    assert accept(client, token, password=PASSWORD).status_code == 200


def test_disabled_user_cannot_join(client: FlaskClient, alice: User, carol: User, superuser: Any) -> None:
    token = invite(client, superuser, alice, carol.email)
    execute(superuser, "UPDATE users SET disabled_at = now() WHERE email = %s", carol.email)
    assert error_of(accept(client, token, password=PASSWORD)) == (401, "INVALID_CREDENTIALS")


@pytest.mark.parametrize("body", [{}, {"password": "short"}, {"password": "password"}])
def test_weak_password_of_a_new_user_is_rejected_and_keeps_the_link(
    client: FlaskClient, alice: User, superuser: Any, body: dict[str, str]
) -> None:
    token = invite(client, superuser, alice)
    response = accept(client, token, **body)
    assert error_of(response) == (422, "VALIDATION_ERROR")
    assert [problem["field"] for problem in response.json["error"]["details"]["fields"]] == ["password"]
    assert accept(client, token, password=NEW_PASSWORD).status_code == 200


def test_unusable_invitation_tokens_get_the_same_response(client: FlaskClient, alice: User, superuser: Any) -> None:
    used = invite(client, superuser, alice)
    assert accept(client, used, password=NEW_PASSWORD).status_code == 200
    declined = invite(client, superuser, alice, "eve@acme.example")
    client.post("/api/v1/team/decline-invitation", json={"token": declined})
    expired = invite(client, superuser, alice, "fay@acme.example")
    expire_links(superuser, "invitations")
    [foreign] = mailed_tokens(superuser, "verify_email")
    unusable = ("x", "x" * 43, used, declined, expired, foreign)
    errors = [accept(client, token, password=NEW_PASSWORD).json["error"] for token in unusable]
    assert {(error["code"], error["message"], str(error["details"])) for error in errors} == {
        ("INVALID_TOKEN", "This link is invalid or has expired.", "{}")
    }


def test_four_concurrent_uses_of_an_invitation_join_once(
    app: Flask, client: FlaskClient, alice: User, superuser: Any
) -> None:
    token = invite(client, superuser, alice)
    with ThreadPoolExecutor(4) as pool:
        responses = list(pool.map(lambda _: accept(app.test_client(), token, password=NEW_PASSWORD), range(4)))
    statuses = sorted(response.status_code for response in responses)
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {400, 401, 409}
    assert execute(superuser, "SELECT count(*) FROM users WHERE email = %s", DAVE) == [(1,)]
    assert len(audit_events(superuser, "invitation.accepted")) == 1


def test_user_who_joined_meanwhile_gets_a_conflict(
    client: FlaskClient, alice: User, carol: User, superuser: Any
) -> None:
    token = invite(client, superuser, alice, carol.email)
    join = """INSERT INTO memberships (organization_id, user_id, role)
        SELECT o.id, u.id, 'viewer' FROM organizations o, users u WHERE o.name = 'Acme' AND u.email = %s"""
    execute(superuser, join, carol.email)
    assert error_of(accept(client, token, password=PASSWORD)) == (409, "USER_EXISTS")
    assert members(client, alice)[carol.email] == "viewer"


def test_joining_from_a_new_address_mails_the_user(
    client: FlaskClient, alice: User, carol: User, superuser: Any
) -> None:
    body = {"token": invite(client, superuser, alice, carol.email), "password": PASSWORD}
    origin = {"REMOTE_ADDR": "192.0.2.7"}
    assert client.post("/api/v1/team/accept-invitation", json=body, environ_base=origin).status_code == 200
    assert len(mail_texts(superuser, "new_sign_in", carol.email)) == 1


def test_password_attempts_with_an_invitation_are_limited(
    client: FlaskClient, alice: User, carol: User, superuser: Any
) -> None:
    token = invite(client, superuser, alice, carol.email)
    statuses = [accept(client, token, password="another").status_code for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    assert error_of(post_auth(client, "/verify-email", token=token)) == (400, "INVALID_TOKEN")
