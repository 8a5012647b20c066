"""JSON of the dashboard: its figures and access to them.

| caller | status |
|---|---|
| anonymous | 401 |
| owner | 200 |
| API key | 401 or 403; `/usage-graph` 200 with usage:read |
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import clock
from tests.support.usage import UsageOrganization, sign_up_organization

TODAY = datetime(2026, 4, 15, 12, 30, tzinfo=UTC)
PATHS = ("stats", "usage-graph", "api-keys")


@pytest.fixture(autouse=True)
def _in_april() -> Iterator[None]:
    clock.freeze_time(TODAY)
    yield
    clock.freeze_time(None)


@pytest.fixture
def acme(app: Flask, client: FlaskClient) -> UsageOrganization:
    """Signed up on 1 March, with one key that was used and one that was not."""
    organization = sign_up_organization(client, at=datetime(2026, 3, 1, 9, tzinfo=UTC))
    organization.make_key("busy")
    organization.make_key("idle")
    organization.open_period(clock.now())
    organization.open_period(TODAY)
    clock.freeze_time(TODAY)
    organization.use(5, at=datetime(2026, 3, 16, 23, 59, tzinfo=UTC), key="busy")
    organization.use(2, at=datetime(2026, 3, 17, tzinfo=UTC), key="busy")
    organization.use(3, key="busy")
    organization.refuse("failed", key="busy")
    return organization


@pytest.mark.parametrize("path", PATHS)
def test_anonymous_call_is_rejected(client: FlaskClient, path: str) -> None:
    assert client.get(f"/api/v1/dashboard/{path}").status_code == 401


@pytest.mark.parametrize("path", ["stats", "api-keys"])
def test_api_key_is_rejected(acme: UsageOrganization, path: str) -> None:
    response = acme.client.get(f"/api/v1/dashboard/{path}", headers=acme.key_headers["busy"])
    assert response.status_code in (401, 403)


def test_stats_count_thirty_days_and_the_month(acme: UsageOrganization) -> None:
    data = acme.get("/dashboard/stats")
    assert (data["organization"]["name"], data["organization"]["plan"]) == ("Acme", "free")
    assert data["stats"] == {
        "total_requests_30d": 3,
        "current_month_requests": 2,
        "current_month_cost": "0.00",
        "currency": "USD",
        "success_rate": 66.67,
        "active_api_keys": 2,
        "total_api_keys": 2,
    }


def test_revoked_key_is_not_active(acme: UsageOrganization) -> None:
    key_id = acme.get("/dashboard/api-keys")["api_keys"][0]["id"]
    assert acme.client.delete(f"/api/v1/keys/{key_id}", headers=acme.owner.headers).status_code == 200
    stats = acme.get("/dashboard/stats")["stats"]
    assert (stats["active_api_keys"], stats["total_api_keys"]) == (1, 2)


def test_cost_of_the_month_equals_the_bill(acme: UsageOrganization) -> None:
    acme.use(1000)
    assert acme.get("/dashboard/stats")["stats"]["current_month_cost"] == "0.03"


def test_graph_has_a_point_for_every_day(acme: UsageOrganization) -> None:
    data = acme.get("/dashboard/usage-graph")
    assert data["period"] == {"start_date": "2026-03-17", "end_date": "2026-04-15", "timezone": "UTC", "days": 30}
    assert len(data["data"]) == 30
    assert data["data"][0] == {"date": "2026-03-17", "requests": 1, "success_count": 1, "error_count": 0}
    assert data["data"][1] == {"date": "2026-03-18", "requests": 0, "success_count": 0, "error_count": 0}
    assert data["data"][-1] == {"date": "2026-04-15", "requests": 2, "success_count": 1, "error_count": 1}


@pytest.mark.parametrize(("days", "requests"), [("1", 2), ("31", 4), ("366", 4)])
def test_graph_has_the_requested_days(acme: UsageOrganization, days: str, requests: int) -> None:
    data = acme.get("/dashboard/usage-graph", days=days)["data"]
    assert len(data) == int(days)
    assert sum(point["requests"] for point in data) == requests


@pytest.mark.parametrize("days", ["0", "367", "-1", "ten", "1.5", "", "\u0663"])
def test_invalid_number_of_days_is_rejected(acme: UsageOrganization, days: str) -> None:
    response = acme.client.get("/api/v1/dashboard/usage-graph", query_string={"days": days}, headers=acme.owner.headers)
    assert (response.status_code, response.json["error"]["code"]) == (422, "VALIDATION_ERROR")
    assert response.json["error"]["details"]["fields"][0]["field"] == "days"


def test_keys_without_usage_are_listed(acme: UsageOrganization) -> None:
    keys = {key["name"]: key for key in acme.get("/dashboard/api-keys")["api_keys"]}
    assert (keys["busy"]["requests_30d"], keys["busy"]["cost_30d"]) == (3, "0.05")
    assert (keys["idle"]["requests_30d"], keys["idle"]["cost_30d"]) == (0, "0.00")
    secret = acme.key_headers["busy"]["X-API-Key"]
    assert secret not in str(keys)
    assert keys["busy"]["key"].endswith(secret[-4:])


def test_organization_sees_only_its_figures(acme: UsageOrganization, client: FlaskClient) -> None:
    carol = sign_up_organization(client, "Carol & Co", "carol@carol.example", at=TODAY)
    assert carol.get("/dashboard/api-keys")["api_keys"] == []
    stats = carol.get("/dashboard/stats")["stats"]
    assert (stats["total_requests_30d"], stats["total_api_keys"]) == (0, 0)
    assert all(point["requests"] == 0 for point in carol.get("/dashboard/usage-graph")["data"])
