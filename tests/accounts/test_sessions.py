"""Sessions of a user: list, revoke, refresh, switch of the organization, and their audit events and mails."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import sessions as accounts_sessions
from saas_api.core import ids
from tests.support.account_mails import audit_events, error_of, execute, mail_texts, post_auth
from tests.support.accounts import AUTH, PASSWORD, User, sign_in

CHROME = "Mozilla/5.0 Chrome"


def sessions(client: FlaskClient, user: User, **query: Any) -> Any:
    response = client.get(f"{AUTH}/sessions", headers=user.headers, query_string=query)
    assert response.status_code == 200, response.json
    return response.json["data"]


def me(client: FlaskClient, token: str) -> Any:
    return client.get(f"{AUTH}/me", headers={"Authorization": f"Bearer {token}"})


def revoke(client: FlaskClient, user: User, session_id: str) -> Any:
    return client.delete(f"{AUTH}/sessions/{session_id}", headers=user.headers)


def join_to(superuser: Any, user: User, other: User, role: str = "viewer") -> None:
    """Make a user a member of another one's organization."""
    values = (ids.parse_id("org", other.organization_id), ids.parse_id("usr", user.user_id))
    sql = "INSERT INTO memberships (organization_id, user_id, role) VALUES (%s, %s, %s)"
    execute(superuser, sql, *(str(value) for value in values), role)


def test_session_list_is_newest_first_without_secrets(client: FlaskClient, alice: User) -> None:
    body = {"email": alice.email, "password": PASSWORD}
    origin = {"REMOTE_ADDR": "192.0.2.7"}
    client.post(f"{AUTH}/login", json=body, headers={"User-Agent": CHROME}, environ_base=origin)
    newest, oldest = sessions(client, alice)["sessions"]
    assert set(newest) == {"id", "ip", "user_agent", "created_at", "last_seen_at", "expires_at", "current"}
    assert (newest["ip"], newest["user_agent"], newest["current"]) == ("192.0.2.7", CHROME, False)
    assert (oldest["ip"], oldest["current"]) == ("127.0.0.1", True)
    assert newest["id"].startswith("ses_")


def test_session_list_is_paginated(client: FlaskClient, alice: User) -> None:
    for _ in range(2):
        sign_in(client, alice.email)
    first = sessions(client, alice, limit=2)
    assert [session["current"] for session in first["sessions"]] == [False, False]
    last = sessions(client, alice, limit=2, cursor=first["pagination"]["next_cursor"])
    assert [session["current"] for session in last["sessions"]] == [True]
    assert last["pagination"] == {"limit": 2, "has_more": False, "next_cursor": None}
    audit_log = client.get("/api/v1/organization/audit-log?limit=1", headers=alice.headers).json["data"]
    cursor_of_audit_log = audit_log["pagination"]["next_cursor"]
    for cursor in ("garbage", "WyJnYXJiYWdlIl0", "W10", cursor_of_audit_log):
        response = client.get(f"{AUTH}/sessions?cursor={cursor}", headers=alice.headers)
        assert error_of(response) == (422, "VALIDATION_ERROR")


def test_revoked_session_is_rejected_immediately_and_not_listed(
    client: FlaskClient, alice: User, superuser: Any
) -> None:
    other = sign_in(client, alice.email)
    [session_id] = [session["id"] for session in sessions(client, alice)["sessions"] if not session["current"]]
    assert revoke(client, alice, session_id).status_code == 200
    assert error_of(me(client, other.token)) == (401, "INVALID_TOKEN")
    assert error_of(post_auth(client, "/refresh", refresh_token=other.refresh_token)) == (401, "INVALID_TOKEN")
    assert [session["current"] for session in sessions(client, alice)["sessions"]] == [True]
    assert error_of(revoke(client, alice, session_id)) == (404, "NOT_FOUND")
    [(actor, actor_id, target, target_id, _)] = audit_events(superuser, "session.revoked")
    assert (actor, actor_id) == ("user", str(ids.parse_id("usr", alice.user_id)))
    assert (target, target_id) == ("session", str(ids.parse_id("ses", session_id)))


def test_session_of_another_user_is_not_found(client: FlaskClient, alice: User, bob: User) -> None:
    [foreign_id] = [session["id"] for session in sessions(client, bob)["sessions"]]
    session_ids = (foreign_id, ids.format_id("ses", ids.new_id()), "garbage")
    responses = [revoke(client, alice, session_id).json["error"] for session_id in session_ids]
    assert {(response["code"], response["message"]) for response in responses} == {("NOT_FOUND", "Not found.")}
    assert me(client, bob.token).status_code == 200


def test_refresh_updates_last_seen_at(client: FlaskClient, alice: User, superuser: Any) -> None:
    execute(superuser, "UPDATE user_sessions SET last_seen_at = now() - interval '1 h'")
    [before] = sessions(client, alice)["sessions"]
    assert post_auth(client, "/refresh", refresh_token=alice.refresh_token).status_code == 200
    [after] = sessions(client, alice)["sessions"]
    assert after["last_seen_at"] > before["last_seen_at"]
    assert after["expires_at"] == before["expires_at"]


def test_disabled_user_cannot_refresh(client: FlaskClient, alice: User, superuser: Any) -> None:
    execute(superuser, "UPDATE users SET disabled_at = now()")
    assert error_of(post_auth(client, "/refresh", refresh_token=alice.refresh_token)) == (401, "INVALID_TOKEN")
    execute(superuser, "UPDATE users SET disabled_at = NULL")
    assert post_auth(client, "/refresh", refresh_token=alice.refresh_token).status_code == 200  # it was not used


def test_removed_member_cannot_refresh(client: FlaskClient, bob: User, superuser: Any) -> None:
    execute(superuser, "DELETE FROM memberships WHERE role = 'member'")
    assert error_of(post_auth(client, "/refresh", refresh_token=bob.refresh_token)) == (401, "INVALID_TOKEN")


def test_switch_returns_tokens_of_the_other_organization(
    client: FlaskClient, alice: User, carol: User, superuser: Any
) -> None:
    join_to(superuser, alice, carol)
    [before] = sessions(client, alice)["sessions"]
    response = post_auth(client, "/switch-organization", alice, organization_id=carol.organization_id)
    assert response.status_code == 200
    data = response.json["data"]
    assert (data["organization"]["id"], data["role"]) == (carol.organization_id, "viewer")
    renewed = post_auth(client, "/refresh", refresh_token=data["refresh_token"]).json["data"]
    for token in (data["token"], renewed["token"]):
        profile = me(client, token).json["data"]
        assert (profile["organization"]["id"], profile["role"]) == (carol.organization_id, "viewer")
    [after] = sessions(client, alice)["sessions"]
    assert (after["id"], after["expires_at"]) == (before["id"], before["expires_at"])
    assert len(audit_events(superuser, "session.switched")) == 1


def test_switch_invalidates_the_previous_refresh_token(
    client: FlaskClient, alice: User, carol: User, superuser: Any
) -> None:
    join_to(superuser, alice, carol)
    data = post_auth(client, "/switch-organization", alice, organization_id=carol.organization_id).json["data"]
    assert error_of(post_auth(client, "/refresh", refresh_token=alice.refresh_token)) == (401, "TOKEN_REUSED")
    assert error_of(me(client, data["token"])) == (401, "INVALID_TOKEN")
    [(actor, _, target, _, is_of_organization)] = audit_events(superuser, "session.revoked")
    assert (actor, target, is_of_organization) == ("system", "session", True)


def test_switch_to_an_organization_of_others_is_not_found(client: FlaskClient, alice: User, carol: User) -> None:
    foreign, missing = (
        post_auth(client, "/switch-organization", alice, organization_id=organization_id)
        for organization_id in (carol.organization_id, ids.format_id("org", ids.new_id()))
    )
    assert error_of(foreign) == error_of(missing) == (404, "NOT_FOUND")
    assert foreign.json["error"]["message"] == missing.json["error"]["message"]
    assert post_auth(client, "/refresh", refresh_token=alice.refresh_token).status_code == 200


def test_sign_in_from_a_new_address_mails_the_user_once(client: FlaskClient, alice: User, superuser: Any) -> None:
    body = {"email": alice.email, "password": PASSWORD}
    for ip in ("127.0.0.1", "192.0.2.7", "192.0.2.7", "127.0.0.1"):
        assert post_auth(client, "/login", ip=ip, **body).status_code == 200
    [text] = mail_texts(superuser, "new_sign_in")
    assert "192.0.2.7" in text


def test_new_address_is_new_for_each_user(client: FlaskClient, alice: User, carol: User, superuser: Any) -> None:
    for user in (alice, carol):
        assert post_auth(client, "/login", ip="192.0.2.7", email=user.email, password=PASSWORD).status_code == 200
    assert (
        len(mail_texts(superuser, "new_sign_in", alice.email))
        == len(mail_texts(superuser, "new_sign_in", carol.email))
        == 1
    )


def test_sign_in_switch_and_sign_out_are_audited(app: Flask, client: FlaskClient, alice: User, superuser: Any) -> None:
    other = sign_in(client, alice.email)
    assert post_auth(client, "/logout", other).status_code == 200
    user = str(ids.parse_id("usr", alice.user_id))
    assert audit_events(superuser, "user.registered") == [("user", user, "user", user, True)]
    assert audit_events(superuser, "user.signed_in") == [("user", user, "user", user, True)] * 2
    assert audit_events(superuser, "user.signed_out") == [("user", user, "user", user, True)]


def test_failed_sign_in_is_audited(client: FlaskClient, alice: User, superuser: Any) -> None:
    for email in (alice.email, "nobody@acme.example"):
        assert post_auth(client, "/login", email=email, password="another").status_code == 401
    known, unknown = audit_events(superuser, "user.sign_in_failed")
    assert known == ("system", None, "user", str(ids.parse_id("usr", alice.user_id)), True)
    assert unknown[:3] == ("system", None, "address")
    assert "nobody" not in unknown[3]
    assert unknown[4] is False


def test_user_has_a_bounded_number_of_sessions(
    client: FlaskClient, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small: there was no bound on the sessions of a user; the session used longest ago ends."""
    monkeypatch.setattr(accounts_sessions, "MAX_SESSIONS", 3)
    later = [sign_in(client, alice.email) for _ in range(3)]
    assert me(client, alice.token).status_code == 401
    assert [me(client, user.token).status_code for user in later] == [200, 200, 200]
    assert me(client, bob.token).status_code == 200
    assert len(sessions(client, later[-1])["sessions"]) == 3
