"""Forward authentication: what a proxy is told about a request, with the routes of its service."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.services import route_file, routes
from tests.support.accounts import User, create_key
from tests.support.metering import move_to_plan, publish_meter, usage_events
from tests.support.services import change_service, create_service

ROUTES = {
    "default": "deny",
    "routes": [
        {"method": "GET", "path": "/v1/lookups/{id}", "permission": "lookups:read"},
        {"method": "POST", "path": "/v1/lookups", "meter": "lookups"},
        {"method": "POST", "path": "/v1/batches", "meter": "lookups", "quantity_header": "X-Count"},
        {"method": "*", "path": "/v1/reports/*", "meter": "lookups", "quantity": "2.5"},
    ],
}


@pytest.fixture
def token(app: Flask) -> str:
    publish_meter(app)
    token = create_service(app)
    change_service(app, routes.set_routes, "lookups", route_file.load_routes(ROUTES))
    return token


@pytest.fixture
def key(client: FlaskClient, alice: User) -> str:
    return str(create_key(client, alice)[1]["X-API-Key"])


def ask(client: FlaskClient, token: str, method: str, uri: str, query: str = "", **headers: str) -> Any:
    """What a proxy asks, as nginx does."""
    sent = {"X-Service-Token": token, "X-Original-Method": method, "X-Original-URI": uri, **headers}
    return client.get(f"/gate{query}", headers=sent)


def test_admitted_request_is_recorded_and_described(
    app: Flask, client: FlaskClient, alice: User, token: str, key: str
) -> None:
    response = ask(client, token, "POST", "/v1/lookups?a=b", **{"X-API-Key": key})
    assert (response.status_code, response.data) == (200, b"")
    assert response.headers["X-Organization-Id"] == alice.organization_id
    assert response.headers["X-Key-Id"].startswith("key_")
    assert (response.headers["X-Plan"], response.headers["X-Mode"]) == ("free", "live")
    assert response.headers["RateLimit-Policy"] == '"plan";q=60;w=60'
    assert response.headers["RateLimit"].startswith('"plan";r=59;t=')
    rows = usage_events(app, "source, meter_code, quantity::int, endpoint")
    assert rows == [("lookups", "lookups", 1, "POST /v1/lookups")]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "REPORT"])
def test_every_method_is_answered(client: FlaskClient, token: str, key: str, method: str) -> None:
    sent = {"X-Service-Token": token, "X-Forwarded-Method": "POST", "X-Forwarded-Uri": "/v1/lookups"}
    response = client.open("/gate", method=method, headers={**sent, "Authorization": f"Bearer {key}"})
    assert response.status_code == 200


def test_envoy_asks_with_the_path_and_method_of_the_request(
    app: Flask, client: FlaskClient, token: str, key: str
) -> None:
    sent = {"X-Service-Token": token, "X-API-Key": key, "X-Original-URI": "/v1/lookups", "X-Original-Method": "POST"}
    assert client.post("/gate/v1/reports/a?b=c", headers=sent).status_code == 200
    assert [float(quantity) for _, quantity in usage_events(app)] == [2.5]
    refused = client.get("/gate/v1/reports%2Fa", headers=sent)
    assert (refused.status_code, refused.headers["X-Gate-Code"]) == (404, "UNSAFE_PATH")


def test_quantity_comes_from_the_route_or_the_header_that_it_names(
    app: Flask, client: FlaskClient, token: str, key: str
) -> None:
    keyed = {"X-API-Key": key}
    assert ask(client, token, "PUT", "/v1/reports/2026/april", **keyed).status_code == 200
    assert ask(client, token, "POST", "/v1/batches", **keyed, **{"X-Count": "40"}).status_code == 200
    assert ask(client, token, "POST", "/v1/batches", **keyed).status_code == 200
    assert ask(client, token, "POST", "/v1/batches", **keyed, **{"X-Count": "-1"}).status_code == 422
    assert [float(quantity) for _, quantity in usage_events(app)] == [2.5, 40, 1]


@pytest.mark.parametrize(
    ("method", "uri", "status", "code"),
    [
        ("GET", "/v1/lookups/7", 403, "INSUFFICIENT_SCOPE"),
        ("DELETE", "/v1/lookups", 404, "NO_ROUTE"),
        ("POST", "/v1/%2e%2e/admin", 404, "UNSAFE_PATH"),
        ("POST", "/", 404, "NO_ROUTE"),
    ],
)
def test_request_without_a_fitting_route_or_scope_is_refused(
    client: FlaskClient, alice: User, token: str, method: str, uri: str, status: int, code: str
) -> None:
    narrow = create_key(client, alice, scopes=["lookups:write"])[1]["X-API-Key"]
    response = ask(client, token, method, uri, **{"X-API-Key": narrow})
    assert (response.status_code, response.headers["X-Gate-Code"]) == (status, code)
    assert response.json["error"]["code"] == code


def test_keys_are_required_and_checked(client: FlaskClient, token: str, key: str) -> None:
    refusals = [
        ({}, "MISSING_API_KEY", "MISSING_API_KEY"),
        ({"X-API-Key": "nonsense"}, "INVALID_API_KEY", "INVALID_API_KEY"),
        ({"X-API-Key": f"{key}x"}, "NOT_FOUND", "INVALID_API_KEY"),
        ({"Authorization": "Basic YTpi"}, "MISSING_API_KEY", "MISSING_API_KEY"),
    ]
    for headers, gate_code, code in refusals:
        response = ask(client, token, "POST", "/v1/lookups", **headers)
        assert (response.status_code, response.headers["X-Gate-Code"]) == (401, gate_code)
        assert response.json["error"]["code"] == code
        assert "WWW-Authenticate" in response.headers


def test_refusals_have_their_status_and_for_nginx_always_403(
    app: Flask, client: FlaskClient, alice: User, token: str, key: str
) -> None:
    move_to_plan(app, alice, prices={"lookups": {"model": "per_unit", "unit_price": "1"}})
    assert alice.call("PUT", "/billing/spend-cap", amount="1.00", action="block")[0] == 200
    keyed = {"X-API-Key": key}
    assert ask(client, token, "POST", "/v1/lookups", **keyed).status_code == 200
    response = ask(client, token, "POST", "/v1/lookups", **keyed)
    assert (response.status_code, response.json["error"]["code"]) == (402, "SPEND_CAP_REACHED")
    for query, status in (("?statuses=nginx", 403), ("", 402)):
        response = ask(client, token, "POST", "/v1/lookups", query, **keyed)
        facts = response.status_code, response.headers["X-Gate-Status"], response.headers["X-Gate-Code"]
        assert facts == (status, "402", "SPEND_CAP_REACHED")
    limited = create_key(client, alice, rate_limit_per_minute=1)[1]["X-API-Key"]
    responses = [ask(client, token, "POST", "/v1/reports/a", **{"X-API-Key": limited}) for _ in range(4)]
    assert {response.headers["X-Gate-Code"] for response in responses} <= {"SPEND_CAP_REACHED", "RATE_LIMITED"}


def test_exceeded_rate_limit_says_when_to_come_back(client: FlaskClient, alice: User, token: str) -> None:
    limited = {"X-API-Key": create_key(client, alice, rate_limit_per_minute=1)[1]["X-API-Key"]}
    responses = [ask(client, token, "POST", "/v1/lookups", **limited) for _ in range(3)]
    refused = [response for response in responses if response.status_code == 429]
    assert refused
    assert refused[-1].headers["X-Gate-Code"] == "RATE_LIMITED"
    assert refused[-1].json["error"]["code"] == "RATE_LIMIT_EXCEEDED"
    assert int(refused[-1].headers["Retry-After"]) >= 1


def test_address_of_the_customer_is_the_one_that_the_proxy_names_last(
    client: FlaskClient, alice: User, token: str
) -> None:
    bound = {"X-API-Key": create_key(client, alice, allowed_ips=["203.0.113.0/24"])[1]["X-API-Key"]}
    statuses = [
        ask(client, token, "POST", "/v1/lookups", **bound, **named).status_code
        for named in (
            {"X-Real-IP": "203.0.113.9"},
            {"X-Forwarded-For": "198.51.100.1, 203.0.113.9"},
            {"X-Forwarded-For": "203.0.113.9, 198.51.100.1"},
            {"X-Real-IP": "unknown"},
            {},
        )
    ]
    assert statuses == [200, 200, 403, 403, 403]


def test_service_token_is_required(client: FlaskClient, token: str, key: str) -> None:
    for bad in ("", "svc_" + "0" * 46):
        response = ask(client, bad, "POST", "/v1/lookups", **{"X-API-Key": key})
        assert (response.status_code, response.headers["X-Gate-Code"]) == (401, "INVALID_SERVICE_TOKEN")


def test_open_service_admits_what_no_route_matches(app: Flask, client: FlaskClient, alice: User, token: str) -> None:
    key = create_key(client, alice, scopes=["lookups:write"])[1]["X-API-Key"]
    change_service(app, routes.set_routes, "lookups", route_file.load_routes({**ROUTES, "default": "allow"}))
    assert ask(client, token, "GET", "/anything", **{"X-API-Key": key}).status_code == 200
    assert ask(client, token, "GET", "/v1/lookups/7", **{"X-API-Key": key}).status_code == 403
    assert usage_events(app) == []
