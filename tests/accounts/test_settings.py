"""Settings of an organization and its audit log."""

import zoneinfo
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from flask import Flask

from saas_api.accounts import audit, organizations
from saas_api.core import clock, formatting
from saas_api.core.db import tenancy
from saas_api.core.errors import ValidationFailed
from tests.support.accounts import User, add_member
from tests.support.team import audit_events, invite, principal_of

AUDIT = "/organization/audit-log"


def test_every_member_can_read_the_organization(alice: User) -> None:
    viewer = add_member(alice, "vera@acme.example", "viewer")
    status, data = viewer.call("GET", "/organization")
    organization = data["organization"]
    assert (status, organization["name"], organization["timezone"], organization["status"]) == (
        200,
        "Acme",
        "UTC",
        "active",
    )
    assert viewer.call("PATCH", "/organization", name="Mine") == (403, "PERMISSION_DENIED")


def test_update_changes_given_attributes_and_is_audited(alice: User) -> None:
    status, data = alice.call("PATCH", "/organization", name="Acme & Co", timezone="Africa/Lagos")
    assert (status, data["organization"]["name"]) == (200, "Acme & Co")
    alice.call("PATCH", "/organization", billing_email="bills@acme.example", name="Acme & Co")
    organization = alice.call("GET", "/organization")[1]["organization"]
    assert (organization["timezone"], organization["billing_email"]) == ("Africa/Lagos", "bills@acme.example")
    second, first = audit_events(alice, action="organization.changed")
    assert second["data"] == {"before": {"billing_email": None}, "after": {"billing_email": "bills@acme.example"}}
    assert first["data"]["before"] == {"name": "Acme", "timezone": "UTC"}
    assert first["actor"] == {"type": "user", "id": alice.user_id}
    assert (first["ip"], first["request_id"][:4]) == ("127.0.0.1", "req_")


def test_locale_is_one_of_a_list(app: Flask, alice: User) -> None:
    assert alice.call("GET", "/organization")[1]["organization"]["locale"] == "en-US"
    assert alice.call("PATCH", "/organization", locale="en-150")[1]["organization"]["locale"] == "en-150"
    with app.app_context(), tenancy.system_session("auth.organizations") as session:
        for locale in formatting.LOCALES:
            session.execute(sa.text("UPDATE organizations SET locale = :locale"), {"locale": locale})


def test_update_without_changes_is_not_audited(alice: User) -> None:
    assert alice.call("PATCH", "/organization", name="Acme")[0] == 200
    assert audit_events(alice, action="organization.changed") == []


@pytest.mark.parametrize(
    "body",
    [
        {"timezone": "Mars/Olympus"},
        {"timezone": ""},
        {"timezone": "../../etc/passwd"},
        {"timezone": None},
        {"locale": "de-DE"},
        {"locale": "en_GB"},
        {"locale": None},
        {"name": ""},
        {"name": "x" * 101},
        {"billing_email": "nobody"},
        {"status": "closed"},
        {"plan": "pro"},
        {"id": "org_" + "0" * 32},
        {"name": "Good", "timezone": "bad"},
    ],
)
def test_invalid_update_is_rejected_as_a_whole(alice: User, body: dict[str, Any]) -> None:
    before = alice.call("GET", "/organization")
    assert alice.call("PATCH", "/organization", **body) == (422, "VALIDATION_ERROR")
    assert alice.call("GET", "/organization") == before


def test_postgresql_knows_every_accepted_time_zone(app: Flask) -> None:
    with app.app_context(), tenancy.system_session("auth.profile") as session:
        known = set(session.scalars(sa.text("SELECT name FROM pg_timezone_names")))
    assert zoneinfo.available_timezones() - known == set()


def test_audit_log_requires_owner_or_admin(alice: User, bob: User) -> None:
    assert bob.call("GET", AUDIT) == (403, "PERMISSION_DENIED")
    assert add_member(alice, "dora@acme.example", "admin").call("GET", AUDIT)[0] == 200


def test_audit_log_contains_only_the_own_organization(alice: User, carol: User) -> None:
    alice.call("PATCH", "/organization", name="Other")
    assert audit_events(carol, action="organization") == []


def test_audit_log_is_filtered_by_action_and_actor(alice: User, carol: User) -> None:
    dora = add_member(alice, "dora@acme.example", "admin")
    dora.call("PATCH", "/organization", name="Doras")
    alice.call("PATCH", "/organization", name="Acme")
    assert [entry["actor"]["id"] for entry in audit_events(alice, action="organization")] == [
        alice.user_id,
        dora.user_id,
    ]
    assert [entry["data"]["after"] for entry in audit_events(alice, action="organization", actor=dora.user_id)] == [
        {"name": "Doras"}
    ]
    assert audit_events(alice, action="organization.chang") == []
    assert audit_events(alice, action="organization%") == []
    assert audit_events(alice, action="organization", actor="system") == []
    assert len(audit_events(alice, action="organization", actor="user")) == 2


def test_audit_log_dates_are_days_of_the_organization(alice: User) -> None:
    caller = principal_of(alice)
    clock.freeze_time(datetime(2026, 4, 14, 23, 30, tzinfo=UTC))
    with alice.client.application.app_context(), tenancy.tenant_session(caller.organization_id) as session:
        organizations.update_organization(session, caller, {"timezone": "Africa/Lagos"})
    clock.freeze_time(None)
    for days, count in (
        ({"start_date": "2026-04-15"}, 1),
        ({"end_date": "2026-04-14"}, 0),
        ({"start_date": "2026-04-15", "end_date": "2026-04-15"}, 1),
        ({"start_date": "2026-04-16"}, 0),
    ):
        assert len(audit_events(alice, action="organization", **days)) == count, days


def test_audit_log_is_paginated(alice: User) -> None:
    for n in range(5):
        alice.call("PATCH", "/organization", name=f"Acme {n}")
    names, cursor = [], None
    while True:
        query = f"?action=organization&limit=2{f'&cursor={cursor}' if cursor else ''}"
        data = alice.call("GET", AUDIT + query)[1]
        names += [entry["data"]["after"]["name"] for entry in data["entries"]]
        cursor = data["pagination"]["next_cursor"]
        if not cursor:
            break
    assert names == [f"Acme {n}" for n in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize(
    "query",
    [
        "start_date=2026-02-30",
        "end_date=yesterday",
        "start_date=2026-04-02&end_date=2026-04-01",
        "start_date=2024-01-01&end_date=2026-01-01",
        "start_date=0001-01-01",
        "end_date=9999-12-31",
        "actor=olga",
        "actor=msg_" + "0" * 32,
        "cursor=x",
        "limit=0",
        "limit=101",
        "who=alice",
    ],
)
def test_invalid_audit_filter_is_rejected(alice: User, query: str) -> None:
    assert alice.call("GET", f"{AUDIT}?{query}") == (422, "VALIDATION_ERROR")


def test_audit_log_is_append_only(alice: User) -> None:
    invite(alice, "dave@acme.example")
    for sql in ("UPDATE audit_events SET action = 'x'", "DELETE FROM audit_events"):
        with (
            alice.client.application.app_context(),
            pytest.raises(sa.exc.DBAPIError, match="permission denied"),
            tenancy.system_session("auth.profile") as session,
        ):
            session.execute(sa.text(sql))
    assert audit_events(alice, action="invitation.created")


def test_date_range_is_read_in_its_time_zone() -> None:
    first, after = audit.date_range_bounds(date(2026, 3, 8), date(2026, 3, 8), ZoneInfo("America/New_York"))
    assert (first, after) == (datetime(2026, 3, 8, 5, tzinfo=UTC), datetime(2026, 3, 9, 4, tzinfo=UTC))
    assert audit.date_range_bounds(None, None, ZoneInfo("UTC")) == (None, None)
    with pytest.raises(ValidationFailed):
        audit.date_range_bounds(date(2025, 1, 1), date(2026, 1, 2), ZoneInfo("UTC"))
