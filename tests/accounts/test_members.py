"""Members: roles, removal, and the one owner."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError

from saas_api.accounts import members
from saas_api.core import ids
from saas_api.core.db import engine, tenancy
from saas_api.core.errors import ApiError
from tests.support.accounts import User, add_member
from tests.support.team import audit_events, invite, member_roles, principal_of


def test_team_lists_members_and_open_invitations(alice: User, bob: User) -> None:
    invite(alice, "dave@acme.example", "viewer")
    status, team = bob.call("GET", "/team/members")
    assert (status, team["total_members"], team["total_pending"]) == (200, 2, 1)
    assert [(member["email"], member["role"], member["full_name"]) for member in team["members"]] == [
        ("alice@acme.example", "owner", "Alice"),
        ("bob@acme.example", "member", "Bob"),
    ]
    pending = team["pending_invitations"][0]
    assert (pending["email"], pending["role"], pending["invited_by"]) == ("dave@acme.example", "viewer", alice.user_id)
    assert "digest" not in pending


@pytest.mark.parametrize("role", ["admin", "member", "billing", "viewer"])
def test_new_role_applies_to_the_next_request(alice: User, bob: User, role: str) -> None:
    status, data = alice.call("PUT", f"/team/members/{bob.user_id}/role", role=role)
    assert (status, data["user"]["role"], data["user"]["id"]) == (200, role, bob.user_id)
    assert bob.call("GET", "/organization/audit-log")[0] == (200 if role == "admin" else 403)


def test_unchanged_role_is_not_audited(alice: User, bob: User) -> None:
    assert alice.call("PUT", f"/team/members/{bob.user_id}/role", role="member")[0] == 200
    assert audit_events(alice, action="member.role_changed") == []


@pytest.mark.parametrize("role", ["owner", "king", "", None, 7])
def test_unassignable_role_is_rejected(alice: User, bob: User, role: object) -> None:
    assert alice.call("PUT", f"/team/members/{bob.user_id}/role", role=role) == (422, "VALIDATION_ERROR")
    assert member_roles(alice)[bob.email] == "member"


def test_role_of_the_owner_cannot_be_changed_or_removed(alice: User, bob: User) -> None:
    alice.call("PUT", f"/team/members/{bob.user_id}/role", role="admin")
    assert alice.call("PUT", f"/team/members/{alice.user_id}/role", role="admin") == (409, "LAST_OWNER")
    assert bob.call("DELETE", f"/team/members/{alice.user_id}") == (409, "LAST_OWNER")
    assert alice.call("DELETE", f"/team/members/{alice.user_id}") == (409, "CANNOT_REMOVE_SELF")
    assert bob.call("DELETE", f"/team/members/{bob.user_id}") == (409, "CANNOT_REMOVE_SELF")
    assert member_roles(alice) == {alice.email: "owner", bob.email: "admin"}


def test_only_the_owner_changes_roles_and_ownership(alice: User, bob: User) -> None:
    alice.call("PUT", f"/team/members/{bob.user_id}/role", role="admin")
    assert bob.call("PUT", f"/team/members/{bob.user_id}/role", role="viewer") == (403, "PERMISSION_DENIED")
    assert bob.call("POST", "/team/transfer-ownership", user_id=bob.user_id) == (403, "PERMISSION_DENIED")


def test_removed_member_is_rejected_immediately(alice: User, bob: User) -> None:
    assert bob.call("GET", "/organization")[0] == 200
    assert alice.call("DELETE", f"/team/members/{bob.user_id}")[0] == 200
    assert bob.call("GET", "/organization") == (401, "INVALID_TOKEN")
    assert member_roles(alice) == {alice.email: "owner"}
    assert alice.call("DELETE", f"/team/members/{bob.user_id}") == (404, "NOT_FOUND")


@pytest.mark.parametrize("change", ["demoted", "removed"])
def test_invitations_are_revoked_with_the_permission_to_invite(alice: User, client: FlaskClient, change: str) -> None:
    dora = add_member(alice, "dora@acme.example", "admin")
    token = invite(dora, "dave@acme.example", "admin")
    if change == "demoted":
        alice.call("PUT", f"/team/members/{dora.user_id}/role", role="viewer")
    else:
        alice.call("DELETE", f"/team/members/{dora.user_id}")
    response = client.post("/api/v1/team/decline-invitation", json={"token": token})
    assert (response.status_code, response.json["error"]["code"]) == (400, "INVALID_TOKEN")


def test_members_of_another_organization_are_not_found(alice: User, bob: User, carol: User) -> None:
    assert carol.call("PUT", f"/team/members/{bob.user_id}/role", role="admin") == (404, "NOT_FOUND")
    assert carol.call("DELETE", f"/team/members/{bob.user_id}") == (404, "NOT_FOUND")
    assert carol.call("POST", "/team/transfer-ownership", user_id=bob.user_id) == (404, "NOT_FOUND")
    assert member_roles(carol) == {carol.email: "owner"}


def test_transfer_makes_the_member_owner_and_the_owner_admin(alice: User, bob: User) -> None:
    status, team = alice.call("POST", "/team/transfer-ownership", user_id=bob.user_id)
    assert (status, team["total_members"]) == (200, 2)
    assert member_roles(alice) == {alice.email: "admin", bob.email: "owner"}
    assert alice.call("POST", "/team/transfer-ownership", user_id=alice.user_id) == (403, "PERMISSION_DENIED")
    entry = audit_events(bob, action="member.ownership_transferred")[0]
    assert (entry["actor"], entry["target"]) == (
        {"type": "user", "id": alice.user_id},
        {"type": "user", "id": bob.user_id},
    )


def test_audit_log_names_a_target_as_its_resource_does(alice: User) -> None:
    """8: the API had prefixes for six types of targets, the dashboard's log for thirteen."""
    assert alice.call("POST", "/billing/upgrade", plan="starter")[0] == 200
    entry = audit_events(alice, action="subscription.changed")[0]
    assert entry["target"] == {"type": "subscription", "id": alice.call("GET", "/billing/subscription")[1]["id"]}


def test_transfer_to_the_owner_is_rejected(alice: User) -> None:
    assert alice.call("POST", "/team/transfer-ownership", user_id=alice.user_id) == (422, "VALIDATION_ERROR")


def test_two_concurrent_transfers_leave_one_owner(alice: User, bob: User) -> None:
    dora = add_member(alice, "dora@acme.example", "admin")
    caller = principal_of(alice)
    for _ in range(5):
        outcomes = _run_concurrently(
            alice,
            [
                lambda session, successor=successor: members.transfer_ownership(
                    session, caller, ids.parse_id("usr", successor.user_id)
                )
                for successor in (bob, dora)
            ],
        )
        assert sorted(outcomes) == ["PERMISSION_DENIED", "done"]
        now = member_roles(dora)
        assert sorted(now.values()) in (["admin", "admin", "owner"], ["admin", "member", "owner"])
        owner = next(user for user in (bob, dora) if now[user.email] == "owner")
        assert owner.call("POST", "/team/transfer-ownership", user_id=alice.user_id)[0] == 200


def test_removal_during_a_transfer_leaves_one_owner(alice: User) -> None:
    for n in range(5):
        bob, dora = (add_member(alice, f"{name}{n}@acme.example", "admin") for name in ("bob", "dora"))
        owner, admin, successor = principal_of(alice), principal_of(dora, "admin"), ids.parse_id("usr", bob.user_id)
        outcomes = _run_concurrently(
            alice,
            [
                lambda session, owner=owner, successor=successor: members.transfer_ownership(session, owner, successor),
                lambda session, admin=admin, successor=successor: members.remove_member(session, admin, successor),
            ],
        )
        assert sorted(outcomes) in (["LAST_OWNER", "done"], ["NOT_FOUND", "done"])
        now = member_roles(alice)
        assert list(now.values()).count("owner") == 1
        if now[alice.email] != "owner":
            assert bob.call("POST", "/team/transfer-ownership", user_id=alice.user_id)[0] == 200


@pytest.mark.parametrize(
    ("sql", "constraint"),
    [
        ("UPDATE memberships SET role = 'owner'", "memberships_one_owner"),
        ("UPDATE memberships SET role = 'admin'", "memberships_keep_owner"),
        ("DELETE FROM memberships WHERE role = 'owner'", "memberships_keep_owner"),
    ],
)
def test_database_enforces_exactly_one_owner(alice: User, bob: User, sql: str, constraint: str) -> None:
    with alice.client.application.app_context():
        with (
            pytest.raises(IntegrityError) as caught,
            tenancy.tenant_session(principal_of(alice).organization_id) as session,
        ):
            session.execute(sa.text(sql))
        assert engine.violated_constraint(caught.value) == constraint
    assert member_roles(alice) == {alice.email: "owner", bob.email: "member"}


def _run_concurrently(user: User, calls: list[Callable[..., None]]) -> list[str]:
    organization_id = principal_of(user).organization_id
    barrier, outcomes = threading.Barrier(len(calls)), list[str]()

    def run(call: Callable[..., None]) -> None:
        with user.client.application.app_context():
            try:
                with tenancy.tenant_session(organization_id) as session:
                    session.execute(sa.text("SELECT 1"))
                    barrier.wait(5)
                    call(session)
                outcomes.append("done")
            except ApiError as error:
                outcomes.append(error.code)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return outcomes


def test_transfer_requires_recent_authentication(client: FlaskClient, alice: User, bob: User) -> None:
    tokens = client.post("/api/v1/auth/refresh", json={"refresh_token": alice.refresh_token}).json["data"]
    refreshed = replace(alice, token=tokens["token"])
    assert refreshed.call("POST", "/team/transfer-ownership", user_id=bob.user_id) == (401, "FRESH_TOKEN_REQUIRED")
