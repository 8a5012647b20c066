"""Plan changes through the API: effective time, cost, access and validation."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.billing import periods, previews, subscriptions
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from tests.support.accounts import User, join, sign_in
from tests.support.billing import BillingOrganization, day

BILLING = "/api/v1/billing"
MID_APRIL = day(16)
MAY_FIRST = "2026-05-01T00:00:00.000Z"


@pytest.fixture
def acme(app: Flask, alice: User) -> BillingOrganization:
    """Alice's organization, created at the start of April; she signed in today, as tokens expire in real time."""
    organization = BillingOrganization(ids.parse_id("org", alice.organization_id))
    with app.app_context(), tenancy.system_session("billing.close") as session:
        session.execute(
            text("UPDATE organizations SET created_at = :at WHERE id = :id"), {"at": day(1), "id": organization.id}
        )
    clock.freeze_time(day(1))
    return organization


def post(client: FlaskClient, user: User, path: str, **body: Any) -> Any:
    return client.post(f"{BILLING}/{path}", json=body, headers=user.headers)


def upgrade(client: FlaskClient, user: User, plan: str, when: str | None = None) -> Any:
    response = post(client, user, "upgrade", plan=plan, **({"when": when} if when else {}))
    assert response.status_code == 200, response.json
    return response.json["data"]


def segments(app: Flask, organization: BillingOrganization) -> list[tuple[str, Any, Any]]:
    with app.app_context():
        rows = organization.rows("SELECT plan_version_id, starts_at, ends_at FROM subscription_segments ORDER BY seq")
        return [tuple(row) for row in rows]


def test_higher_plan_takes_effect_now_and_is_prorated(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    upgrade(client, alice, "starter")
    clock.freeze_time(MID_APRIL)
    changed = upgrade(client, alice, "pro")
    assert changed["organization"] == {
        "id": alice.organization_id,
        "name": "Acme",
        "plan": "pro",
        "updated_at": "2026-04-16T00:00:00.000Z",
    }
    change = changed["change"]
    assert (change["effective_at"], change["total"], change["is_scheduled"]) == (
        "2026-04-16T00:00:00.000Z",
        "35.00",
        False,
    )
    assert [(line["description"], line["amount"]) for line in change["lines"]] == [
        ("Starter plan, unused part", "-14.50"),
        ("Pro plan", "49.50"),
    ]
    assert segments(app, acme) == [("starter@1", day(1), MID_APRIL), ("pro@1", MID_APRIL, None)]


def test_lower_plan_takes_effect_at_the_end_of_the_period(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    upgrade(client, alice, "pro")
    clock.freeze_time(MID_APRIL)
    changed = upgrade(client, alice, "starter")
    assert changed["organization"]["plan"] == "pro"
    assert changed["change"]["effective_at"] == MAY_FIRST
    assert (changed["change"]["lines"], changed["change"]["total"]) == ([], "0.00")
    assert segments(app, acme) == [("pro@1", day(1), day(1, month=5)), ("starter@1", day(1, month=5), None)]


def test_lower_plan_can_take_effect_now(client: FlaskClient, alice: User, acme: BillingOrganization) -> None:
    upgrade(client, alice, "pro")
    clock.freeze_time(MID_APRIL)
    assert upgrade(client, alice, "starter", "now")["change"]["total"] == "-35.00"


def test_scheduled_change_replaces_the_previous_one(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    upgrade(client, alice, "scale")
    clock.freeze_time(MID_APRIL)
    for plan in ("pro", "starter"):
        upgrade(client, alice, plan)
    assert [stage[0] for stage in segments(app, acme)] == ["scale@1", "starter@1"]
    assert post(client, alice, "upgrade", plan="starter").json["error"]["code"] == "SAME_PLAN"


@pytest.mark.parametrize("when", [None, "now", "period_end"])
def test_current_plan_cancels_a_scheduled_change(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization, when: str | None
) -> None:
    upgrade(client, alice, "pro")
    clock.freeze_time(MID_APRIL)
    upgrade(client, alice, "free")
    back = upgrade(client, alice, "pro", when)
    assert back["organization"]["plan"] == "pro"
    assert (back["change"]["previous_version"], back["change"]["canceled_version"]) == ("pro@1", "free@1")
    assert back["change"]["is_scheduled"] is False
    assert segments(app, acme) == [("pro@1", day(1), None)]
    again = post(client, alice, "upgrade", plan="pro")
    assert (again.status_code, again.json["error"]["code"]) == (409, "SAME_PLAN")


def test_immediate_change_cancels_a_scheduled_one(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    upgrade(client, alice, "pro")
    clock.freeze_time(MID_APRIL)
    upgrade(client, alice, "free")
    upgrade(client, alice, "scale")
    assert [stage[0] for stage in segments(app, acme)] == ["pro@1", "scale@1"]


def test_last_of_two_changes_in_one_instant_counts(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    upgrade(client, alice, "starter")
    upgrade(client, alice, "scale", "now")
    assert segments(app, acme) == [("scale@1", day(1), None)]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"plan": "gold"}, 422, "INVALID_PLAN"),
        ({"plan": "free@1"}, 422, "INVALID_PLAN"),
        ({"plan": "free"}, 409, "SAME_PLAN"),
        ({"plan": "free", "when": "now"}, 409, "SAME_PLAN"),
        ({"plan": "free", "when": "period_end"}, 409, "SAME_PLAN"),
        ({"plan": "pro", "when": "yesterday"}, 422, "VALIDATION_ERROR"),
        ({"plan": 7}, 422, "VALIDATION_ERROR"),
        ({"plan": ""}, 422, "VALIDATION_ERROR"),
        ({}, 422, "VALIDATION_ERROR"),
        ({"plan": "pro", "price": "0"}, 422, "VALIDATION_ERROR"),
    ],
)
def test_rejected_plan_change_changes_nothing(
    app: Flask,
    client: FlaskClient,
    alice: User,
    acme: BillingOrganization,
    body: dict[str, Any],
    status: int,
    code: str,
) -> None:
    client.get(f"{BILLING}/subscription", headers=alice.headers)
    for path in ("upgrade", "preview-change"):
        response = post(client, alice, path, **body)
        assert (response.status_code, response.json["error"]["code"]) == (status, code)
    assert segments(app, acme) == [("free@1", day(1), None)]


def test_only_owner_and_billing_change_the_plan_and_all_members_preview(
    app: Flask, client: FlaskClient, alice: User
) -> None:
    for role in ("admin", "member", "viewer", "billing"):
        join(app, alice.organization_id, f"{role}@acme.example", role)
        user = sign_in(client, f"{role}@acme.example")
        assert post(client, user, "preview-change", plan="pro").status_code == 200
        assert post(client, user, "upgrade", plan="pro").status_code == (200 if role == "billing" else 403)


def test_plan_change_is_in_the_audit_log_and_raises_the_default_cap(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    upgrade(client, alice, "starter")
    with app.app_context():
        [event] = acme.rows("SELECT * FROM audit_events WHERE action = 'subscription.changed'")
        [profile] = acme.rows("SELECT * FROM billing_profiles")
    assert (event.actor_type, event.actor_id) == ("user", str(ids.parse_id("usr", alice.user_id)))
    assert (event.data["before"], event.data["after"]) == ({"plan": "free@1"}, {"plan": "starter@1"})
    assert (profile.spend_cap_minor, profile.spend_cap_is_default) == (12_900, True)


def test_plan_change_keeps_a_chosen_cap(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    client.get(f"{BILLING}/subscription", headers=alice.headers)
    with app.app_context():
        with acme.transaction() as session:
            session.execute(text("UPDATE billing_profiles SET spend_cap_minor = 5000, spend_cap_is_default = false"))
        upgrade(client, alice, "starter")
        assert acme.rows("SELECT spend_cap_minor FROM billing_profiles") == [(5000,)]


def test_subscription_shows_the_scheduled_change(client: FlaskClient, alice: User, acme: BillingOrganization) -> None:
    upgrade(client, alice, "pro")
    clock.freeze_time(MID_APRIL)
    upgrade(client, alice, "free")
    data = client.get(f"{BILLING}/subscription", headers=alice.headers).json["data"]
    assert (data["plan"]["code"], data["plan"]["base_amount"], data["standing"]) == ("pro", "99.00", "good")
    assert data["scheduled_change"]["version"] == "free@1"
    assert data["scheduled_change"]["effective_at"] == data["period"]["ends_at"] == MAY_FIRST


def test_every_plan_change_names_the_plan_that_was_in_force(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    """Small: calling off a scheduled change named the scheduled plan as the one before, in event and audit log."""
    with app.app_context(), tenancy.system_session("billing.close") as session:
        session.execute(
            text("INSERT INTO webhook_endpoints (organization_id, url) VALUES (:id, 'https://acme.example/hook')"),
            {"id": acme.id},
        )
    upgrade(client, alice, "pro")
    clock.freeze_time(MID_APRIL)
    upgrade(client, alice, "free")
    upgrade(client, alice, "pro")
    with app.app_context():
        changes = acme.rows("SELECT data FROM audit_events WHERE action = 'subscription.changed' ORDER BY id")
        events = acme.rows(
            """SELECT payload::json -> 'data' AS data FROM events WHERE type = 'subscription.updated' ORDER BY id"""
        )
    assert [(row.data["previous_plan"], row.data["plan"]["code"]) for row in events] == [
        ("free", "pro"),
        ("pro", "free"),
        ("pro", "pro"),
    ]
    assert [row.data["before"] for row in changes] == [
        {"plan": "free@1"},
        {"plan": "pro@1"},
        {"plan": "pro@1", "scheduled": "free@1"},
    ]
    assert events[0].data["plan"] == {
        "code": "pro", "name": "Pro", "version": "pro@1", "base_amount": "99.00", "currency": "USD",
    }  # fmt: skip
    assert events[1].data["effective_at"] == MAY_FIRST
    assert events[1].data["canceled_at"] is None


def test_preview_runs_in_a_read_only_transaction(app: Flask, acme: BillingOrganization) -> None:
    """An operator previews plan changes while impersonating, in a read-only transaction."""
    clock.freeze_time(day(16))
    with app.app_context():
        with acme.transaction() as session:
            periods.ensure_account(session, acme.id)
        with acme.transaction() as session:
            session.execute(text("SET TRANSACTION READ ONLY"))
            assert subscriptions.preview_change(session, acme.id, "pro", None).total_minor == 4950
            assert len(previews.simulate_plans(session, acme.id, None)) == 4


def test_scheduled_downgrade_does_not_lower_the_default_cap(
    app: Flask, client: FlaskClient, alice: User, acme: BillingOrganization
) -> None:
    upgrade(client, alice, "pro")
    with app.app_context():
        before = acme.rows("SELECT spend_cap_minor FROM billing_profiles")
    upgrade(client, alice, "free")
    with app.app_context():
        assert acme.rows("SELECT spend_cap_minor FROM billing_profiles") == before
