"""`GET /usage`: access, sums of the breakdowns, and validation of the range.

| caller | status |
|---|---|
| anonymous | 401 |
| owner | 200 |
| key with usage:read | 200 |
| key without it | 403 INSUFFICIENT_SCOPE |
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from saas_api.usage import ledger
from tests.support.usage import APRIL_15, UsageOrganization, sign_up_organization

COUNTS = ("requests", "success_count", "error_count")


pytestmark = pytest.mark.usefixtures("april")


def use_both_meters_and_keys(organization: UsageOrganization) -> None:
    """Use both meters and both keys on several days, partly rolled up, with accepted and refused calls."""
    for day in (1, 2, 2, 9):
        organization.use(3, at=datetime(2026, 4, day, 23, 59, tzinfo=UTC), key="first")
    organization.roll_up()
    organization.use(2, at=datetime(2026, 4, 10, tzinfo=UTC), key="second")
    organization.use(1, at=datetime(2026, 4, 10, tzinfo=UTC), meter="email", key="second")
    organization.use(1, at=APRIL_15)
    organization.refuse("failed", 2)
    organization.refuse("rate_limited", 3, key="second")


def test_usage_without_credentials_is_rejected(client: FlaskClient) -> None:
    assert client.get("/api/v1/usage").status_code == 401


def test_owner_and_key_with_scope_get_the_same_usage(acme: UsageOrganization) -> None:
    use_both_meters_and_keys(acme)
    usage = acme.get("/usage")
    assert usage == acme.get("/billing/usage")
    assert usage == acme.get("/usage", headers=acme.key_headers["first"])
    assert usage["summary"]["total_requests"] > 0


def test_key_without_scope_is_rejected(acme: UsageOrganization) -> None:
    acme.make_key("mute", scopes=["messages:write"])
    response = acme.client.get("/api/v1/usage", headers=acme.key_headers["mute"])
    assert (response.status_code, response.json["error"]["code"]) == (403, "INSUFFICIENT_SCOPE")


def test_refused_call_is_counted_under_its_route(acme: UsageOrganization) -> None:
    acme.make_key("mute", scopes=["messages:write"])
    assert acme.client.get("/api/v1/usage", headers=acme.key_headers["mute"]).status_code == 403
    acme.refuse("failed", times=0)
    usage = acme.get("/usage")
    assert usage["by_endpoint"] == [
        {
            "method": "GET",
            "endpoint": "/api/v1/usage",
            "requests": 1,
            "success_count": 0,
            "error_count": 1,
            "cost": "0.00",
        }
    ]
    assert [row["name"] for row in usage["by_api_key"]] == ["mute"]
    assert (usage["summary"]["failed_requests"], usage["summary"]["success_rate"]) == (1, 0.0)


def test_new_organization_has_no_usage(client: FlaskClient) -> None:
    usage = sign_up_organization(client, at=APRIL_15).get("/usage")
    assert usage["summary"] == {
        "total_requests": 0,
        "successful_requests": 0,
        "failed_requests": 0,
        "rate_limited_requests": 0,
        "success_rate": 100.0,
        "total_cost": "0.00",
        "list_cost": "0.00",
        "currency": "USD",
        "period": {"start_date": "2026-03-17", "end_date": "2026-04-15", "timezone": "UTC"},
    }
    assert usage["by_meter"] == usage["by_endpoint"] == usage["by_api_key"] == []
    assert len(usage["daily_breakdown"]) == 30


def test_first_message_is_listed_and_free(acme: UsageOrganization) -> None:
    acme.use(key="first")
    usage = acme.get("/usage")
    assert (usage["summary"]["list_cost"], usage["summary"]["total_cost"]) == ("0.01", "0.00")
    assert usage["by_meter"] == [
        {
            "meter": "sms",
            "unit": "segment",
            "requests": 1,
            "quantity": "1",
            "included": "1",
            "overage": "0",
            "cost": "0.01",
        }
    ]


def test_total_cost_starts_beyond_the_included_quantity(acme: UsageOrganization) -> None:
    acme.use(1003)
    usage = acme.get("/usage")
    assert (usage["summary"]["list_cost"], usage["summary"]["total_cost"]) == ("10.03", "0.03")
    meter = usage["by_meter"][0]
    assert (meter["quantity"], meter["included"], meter["overage"]) == ("1003", "1000", "3")


def test_every_breakdown_adds_up_to_the_summary(acme: UsageOrganization) -> None:
    use_both_meters_and_keys(acme)
    usage = acme.get("/usage")
    summary = usage["summary"]
    assert (summary["total_requests"], summary["successful_requests"]) == (12, 7)
    assert (summary["failed_requests"], summary["rate_limited_requests"]) == (2, 3)
    assert summary["success_rate"] == 77.78
    assert summary["list_cost"] == "0.151"
    for breakdown in ("by_endpoint", "by_api_key", "daily_breakdown"):
        rows = usage[breakdown]
        assert [sum(row[count] for row in rows) for count in COUNTS] == [12, 7, 5], breakdown
        assert sum(Decimal(row["cost"]) for row in rows) == Decimal("0.151"), breakdown
    assert sum(Decimal(row["cost"]) for row in usage["by_meter"]) == Decimal("0.151")
    assert [(row["meter"], row["quantity"]) for row in usage["by_meter"]] == [("email", "1"), ("sms", "15")]


def test_usage_of_a_revoked_key_stays_in_the_report(acme: UsageOrganization) -> None:
    acme.use(key="first")
    key_id = acme.get("/usage")["by_api_key"][0]["api_key_id"]
    assert acme.client.delete(f"/api/v1/keys/{key_id}", headers=acme.owner.headers).status_code == 200
    assert [(row["api_key_id"], row["name"]) for row in acme.get("/usage")["by_api_key"]] == [(key_id, "first")]


def test_failed_message_costs_nothing_and_counts_as_a_request(acme: UsageOrganization) -> None:
    acme.reverse(acme.use(3, key="first"))
    summary = acme.get("/usage")["summary"]
    assert (summary["successful_requests"], summary["list_cost"], summary["total_cost"]) == (1, "0.00", "0.00")


def total_of(organization: UsageOrganization, first: datetime, last: datetime) -> Decimal:
    usage = organization.get("/usage", start_date=f"{first:%Y-%m-%d}", end_date=f"{last:%Y-%m-%d}")
    return Decimal(usage["summary"]["total_cost"])


def test_costs_of_days_add_up_to_the_cost_of_the_range(acme: UsageOrganization) -> None:
    for day, quantity in ((2, 700), (3, 290), (4, 17), (9, 5)):
        acme.use(quantity, at=datetime(2026, 4, day, 8, tzinfo=UTC))
        acme.roll_up()
    days = [datetime(2026, 4, 1, tzinfo=UTC) + timedelta(days=n) for n in range(15)]
    assert [total_of(acme, day, day) for day in days[2:4]] == [0, Decimal("0.07")]
    assert sum(total_of(acme, day, day) for day in days) == total_of(acme, days[0], days[-1]) == Decimal("0.12")


def test_late_usage_counts_once_on_the_day_it_happened(acme: UsageOrganization) -> None:
    march, april = datetime(2026, 3, 20, 10, tzinfo=UTC), datetime(2026, 4, 2, 10, tzinfo=UTC)
    acme.use(1000, at=march)
    acme.use(1000, at=april)
    acme.close_period(acme.open_period(march))
    acme.use(4, at=march, is_late=True)
    for _ in range(2):
        usage = acme.get("/usage", start_date="2026-03-01", end_date="2026-03-31")
        assert (usage["summary"]["list_cost"], usage["summary"]["total_cost"]) == ("10.04", "0.04")
        assert [row["date"] for row in usage["daily_breakdown"] if row["requests"]] == ["2026-03-20"]
        assert total_of(acme, april, APRIL_15) == 0
        assert total_of(acme, march, APRIL_15) == Decimal("0.04")
        acme.roll_up()


def test_usage_event_outside_open_periods_is_rejected(acme: UsageOrganization) -> None:
    with pytest.raises(Exception, match="billing_period_id"):
        acme.use(at=datetime(2026, 2, 1, tzinfo=UTC))
    assert acme.ledger_sum() == 0


def test_same_idempotency_key_counts_once(acme: UsageOrganization) -> None:
    event = acme.use()
    sql, values = ledger.append_usage_statement(acme.id, event)
    with (
        pytest.raises(Exception, match="duplicate key"),
        acme.transaction() as session,
    ):
        session.connection().exec_driver_sql(sql, values)
    assert acme.ledger_sum() == 1


def test_days_are_those_of_the_time_zone_of_the_organization(acme: UsageOrganization) -> None:
    with acme.transaction() as session:
        session.execute(text("UPDATE organizations SET timezone = 'Asia/Kolkata'"))
    acme.use(at=datetime(2026, 4, 1, 18, 29, tzinfo=UTC))
    acme.use(at=datetime(2026, 4, 1, 18, 30, tzinfo=UTC))
    usage = acme.get("/usage", start_date="2026-04-01", end_date="2026-04-02")
    assert [(row["date"], row["requests"]) for row in usage["daily_breakdown"]] == [
        ("2026-04-01", 1),
        ("2026-04-02", 1),
    ]
    assert usage["summary"]["period"]["timezone"] == "Asia/Kolkata"


def test_test_mode_usage_is_separate_and_free(acme: UsageOrganization) -> None:
    acme.make_key("trial", mode="test")
    sent = acme.client.post(
        "/api/v1/messages/send",
        json={"to": "+2348012345678", "type": "sms", "message": "Hello"},
        headers=acme.key_headers["trial"],
    )
    assert sent.status_code == 202, sent.json
    assert acme.get("/usage")["summary"]["total_requests"] == 0
    for usage in (acme.get("/usage", mode="test"), acme.get("/usage", headers=acme.key_headers["trial"])):
        assert usage["mode"] == "test"
        assert usage["summary"]["successful_requests"] == 1
        assert (usage["summary"]["list_cost"], usage["summary"]["total_cost"]) == ("0.00", "0.00")
        assert [row["name"] for row in usage["by_api_key"]] == ["trial"]


def test_organization_sees_its_own_usage_only(acme: UsageOrganization, client: FlaskClient) -> None:
    use_both_meters_and_keys(acme)
    carol = sign_up_organization(client, "Carol & Co", "carol@carol.example", at=APRIL_15)
    carol.open_period(APRIL_15)
    carol.use(2)
    for _ in range(2):
        summary = carol.get("/usage")["summary"]
        assert (summary["total_requests"], summary["list_cost"]) == (1, "0.02")
        assert acme.get("/usage")["summary"]["total_requests"] == 12
        acme.roll_up()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"start_date": "2026-04-02", "end_date": "2026-04-01"}, "end_date"),
        ({"start_date": "2025-01-01", "end_date": "2026-04-01"}, "end_date"),
        ({"start_date": "2026-02-30"}, "start_date"),
        ({"start_date": "01.04.2026"}, "start_date"),
        ({"end_date": ""}, "end_date"),
        ({"end_date": "2026-04-01T00:00:00Z"}, "end_date"),
        ({"start_date": "0001-01-01", "end_date": "0001-01-02"}, "start_date"),
        ({"start_date": "9999-12-30", "end_date": "9999-12-31"}, "start_date"),
        ({"mode": "both"}, "mode"),
        ({"days": "3"}, "days"),
    ],
)
def test_invalid_range_names_the_wrong_field(acme: UsageOrganization, query: dict[str, Any], field: str) -> None:
    response = acme.client.get("/api/v1/usage", query_string=query, headers=acme.owner.headers)
    assert (response.status_code, response.json["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert [problem["field"] for problem in response.json["error"]["details"]["fields"]] == [field]


def test_range_includes_both_of_its_ends(acme: UsageOrganization) -> None:
    acme.use(at=datetime(2026, 4, 1, tzinfo=UTC))
    acme.use(at=datetime(2026, 4, 3, 23, 59, 59, 999_999, tzinfo=UTC))
    acme.use(at=datetime(2026, 4, 4, tzinfo=UTC))
    assert acme.get("/usage", start_date="2026-04-01", end_date="2026-04-03")["summary"]["total_requests"] == 2
