"""Invitations: permission to invite, open invitations, and their links."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from saas_api.accounts import invitations
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.core.errors import ApiError
from tests.support.accounts import User, add_member, sign_up
from tests.support.team import audit_events, invite, member_roles

DAVE = "dave@acme.example"


def decline(client: FlaskClient, token: str) -> tuple[int, Any]:
    response = client.post("/api/v1/team/decline-invitation", json={"token": token})
    return response.status_code, response.json.get("error", {}).get("code")


def accept(user: User, token: str) -> str:
    """Accept as the user; returns the role or the error code."""
    with user.client.application.app_context():
        try:
            with tenancy.system_session("auth.register") as session:
                return invitations.accept_invitation(session, token, ids.parse_id("usr", user.user_id))[1]
        except ApiError as error:
            return error.code


def test_invitation_is_mailed_and_its_token_is_not_stored(alice: User) -> None:
    status, data = alice.call("POST", "/team/invite", email="Dave@ACME.example", role="billing")
    assert status == 201
    assert (data["email"], data["role"]) == ("dave@acme.example", "billing")
    assert data["invitation_id"].startswith("ivt_")
    assert data["expires_at"] > clock.format_rfc3339(clock.now() + timedelta(days=6, hours=23))
    assert set(data) == {"invitation_id", "email", "role", "invited_by", "expires_at", "created_at"}
    entry = audit_events(alice, action="invitation.created")[0]
    assert entry["data"] == {"after": {"email": "dave@acme.example", "role": "billing"}}
    assert entry["target"] == {"type": "invitation", "id": data["invitation_id"]}


@pytest.mark.parametrize("role", ["member", "billing", "viewer"])
def test_only_owners_and_admins_can_invite(alice: User, role: str) -> None:
    user = add_member(alice, "bob@acme.example", role)
    assert user.call("POST", "/team/invite", email=DAVE, role="viewer") == (403, "PERMISSION_DENIED")


def test_admin_can_invite_up_to_admin(alice: User) -> None:
    dora = add_member(alice, "dora@acme.example", "admin")
    assert dora.call("POST", "/team/invite", email=DAVE, role="admin")[0] == 201
    assert dora.call("POST", "/team/invite", email="eve@acme.example", role="owner") == (422, "VALIDATION_ERROR")


@pytest.mark.parametrize("body", [{"email": "nobody", "role": "member"}, {"email": DAVE, "role": "king"}, {"x": 1}])
def test_invalid_invitation_is_rejected(alice: User, body: dict[str, Any]) -> None:
    assert alice.call("POST", "/team/invite", **body) == (422, "VALIDATION_ERROR")


def test_member_cannot_be_invited_in_any_case_of_the_address(alice: User, bob: User) -> None:
    assert alice.call("POST", "/team/invite", email="BOB@acme.example", role="admin") == (409, "USER_EXISTS")


def test_address_has_one_open_invitation_in_any_case(alice: User) -> None:
    invite(alice, DAVE)
    assert alice.call("POST", "/team/invite", email=DAVE.upper(), role="admin") == (409, "INVITATION_EXISTS")
    assert len(audit_events(alice, action="invitation.created")) == 1


def test_two_concurrent_invitations_create_one(alice: User) -> None:
    statuses = _run_concurrently([lambda: alice.call("POST", "/team/invite", email=DAVE, role="member")[0]] * 2, alice)
    assert sorted(statuses) == [201, 409]
    assert alice.call("GET", "/team/members")[1]["total_pending"] == 1


def test_invitation_after_a_canceled_one_has_a_new_link(alice: User) -> None:
    first = invite(alice, DAVE)
    pending = alice.call("GET", "/team/members")[1]["pending_invitations"]
    path = f"/team/invitations/{pending[0]['invitation_id']}"
    assert alice.call("DELETE", path)[0] == 200
    assert alice.call("DELETE", path) == (404, "NOT_FOUND")
    second = invite(alice, DAVE)
    assert decline(alice.client, first) == (400, "INVALID_TOKEN")
    assert decline(alice.client, second) == (200, None)
    assert [entry["action"] for entry in audit_events(alice, action="invitation")] == [
        "invitation.declined",
        "invitation.created",
        "invitation.canceled",
        "invitation.created",
    ]


def test_expired_invitation_is_rejected_and_can_be_sent_again(alice: User) -> None:
    first = invite(alice, DAVE)
    _age_invitations(alice, timedelta(days=7))
    assert alice.call("GET", "/team/members")[1]["total_pending"] == 0
    assert decline(alice.client, first) == (400, "INVALID_TOKEN")
    assert decline(alice.client, invite(alice, DAVE)) == (200, None)


def test_unknown_used_and_canceled_tokens_get_the_same_response(alice: User, carol: User) -> None:
    used = invite(alice, carol.email)
    assert accept(carol, used) == "member"
    responses = {str(decline(alice.client, token)) for token in ("x", "x" * 43, used)}
    assert responses == {"(400, 'INVALID_TOKEN')"}
    assert accept(carol, used) == "INVALID_TOKEN"
    assert decline(alice.client, "") == (422, "VALIDATION_ERROR")


def test_accepted_invitation_creates_a_member_and_is_audited(alice: User, carol: User) -> None:
    assert accept(carol, invite(alice, carol.email, "viewer")) == "viewer"
    assert member_roles(alice) == {alice.email: "owner", carol.email: "viewer"}
    entry = audit_events(alice, action="invitation.accepted")[0]
    assert entry["actor"] == {"type": "user", "id": carol.user_id}


def test_two_concurrent_uses_of_an_invitation_join_once(alice: User) -> None:
    token = invite(alice, DAVE)
    users = [sign_up(alice.client, f"{name}@else.example", name) for name in ("dave", "eve")]
    outcomes = _run_concurrently([lambda user=user: accept(user, token) for user in users], alice)
    assert sorted(outcomes) == ["INVALID_TOKEN", "member"]
    assert len(member_roles(alice)) == 2


def test_invitation_of_another_organization_is_not_found(alice: User, carol: User) -> None:
    invite(alice, DAVE)
    pending = alice.call("GET", "/team/members")[1]["pending_invitations"]
    assert carol.call("DELETE", f"/team/invitations/{pending[0]['invitation_id']}") == (404, "NOT_FOUND")
    assert alice.call("GET", "/team/members")[1]["total_pending"] == 1


def test_unverified_user_cannot_invite_when_verification_is_required(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(alice.client.application.config, "REQUIRE_VERIFIED_EMAIL", True)
    assert alice.call("POST", "/team/invite", email=DAVE, role="member") == (403, "EMAIL_NOT_VERIFIED")
    assert alice.call("GET", "/team/members")[1]["total_pending"] == 0


def test_fifty_invitations_a_day_without_counting_rejected_ones(alice: User) -> None:
    for n in range(50):
        assert alice.call("POST", "/team/invite", email=f"p{n}@acme.example", role="viewer")[0] == 201
        if n < 5:
            assert alice.call("POST", "/team/invite", email=f"p{n}@acme.example", role="viewer")[0] == 409
    assert alice.call("POST", "/team/invite", email=DAVE, role="viewer") == (429, "RATE_LIMIT_EXCEEDED")


def _age_invitations(user: User, time: timedelta) -> None:
    earlier = sa.text("UPDATE invitations SET expires_at = expires_at - CAST(:time AS interval)")
    with user.client.application.app_context(), tenancy.system_session("organizations.decline") as session:
        session.execute(earlier, {"time": time})


def _run_concurrently(calls: list[Callable[[], Any]], user: User) -> list[Any]:
    barrier, outcomes = threading.Barrier(len(calls)), list[Any]()

    def run(call: Callable[[], Any]) -> None:
        barrier.wait(5)
        outcomes.append(call())

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return outcomes
