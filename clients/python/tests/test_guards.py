"""Each guard, in an application of its framework, answers as the platform does."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from clients.python.tests.guarded_applications import FRAMEWORKS, Application
from clients.python.tests.platform_service import recorded
from saas_api_client import AsyncClient, Client
from saas_api_client.asgi import ApiKeyMiddleware, Policy
from tests.support.accounts import User
from tests.support.ports import free_port
from tests.support.rate_limits import stay_within_a_minute

Guarded = Callable[..., Application]


@pytest.fixture(params=FRAMEWORKS)
def guarded(request: pytest.FixtureRequest, platform: str, service_token: str) -> Guarded:
    """A function that makes an application with the guard of one framework, before the platform."""
    return functools.partial(FRAMEWORKS[request.param], url=platform, token=service_token)


def test_call_with_a_valid_key_passes_and_is_metered(
    app: Flask, alice: User, guarded: Guarded, service_key: Any
) -> None:
    application = guarded()
    for headers in ({"X-API-Key": service_key.key}, {"Authorization": f"Bearer {service_key.key}"}):
        answer = application.post("/lookups", headers)
        assert (answer.status_code, answer.json()) == (200, {"customer": alice.organization_id})
        assert int(answer.headers["X-RateLimit-Remaining"]) < int(answer.headers["X-RateLimit-Limit"])
        assert answer.headers["RateLimit"].startswith('"plan";r=')
        assert answer.headers["RateLimit-Policy"] == '"plan";q=60;w=60'
    assert recorded(app, alice, "lookups") == (2, "2.000000")


def test_call_without_a_key_or_with_a_bad_one_is_401(guarded: Guarded) -> None:
    application = guarded()
    for headers, code in (
        ({}, "MISSING_API_KEY"),
        ({"Authorization": "Basic abc"}, "MISSING_API_KEY"),
        ({"X-API-Key": "sk_live_unknown"}, "INVALID_API_KEY"),
        ({"X-API-Key": "x" * 300}, "INVALID_API_KEY"),
    ):
        answer = application.post("/lookups", headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json()["error"].keys() == {"code", "message", "details", "request_id"}
        assert answer.headers["X-Request-Id"] == answer.json()["error"]["request_id"]


def test_key_that_may_not_is_403_and_a_full_window_429(
    app: Flask, alice: User, guarded: Guarded, customer: Client, create_key: Callable[..., Any]
) -> None:
    application = guarded()
    reader = customer.keys.create("reader", scopes=["usage:read"])
    answer = application.post("/lookups", {"X-API-Key": reader.key})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "INSUFFICIENT_SCOPE")

    slow = create_key("lookups:write", rate_limit_per_minute=1)
    stay_within_a_minute(5)
    assert application.post("/lookups", {"X-API-Key": slow.key}).status_code == 200
    answer = application.post("/lookups", {"X-API-Key": slow.key})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "RATE_LIMIT_EXCEEDED")
    assert 1 <= int(answer.headers["Retry-After"]) <= 120
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    assert recorded(app, alice, "lookups") == (1, "1.000000")


def test_key_is_bound_to_the_address_of_the_connection(guarded: Guarded, create_key: Callable[..., Any]) -> None:
    application = guarded()
    here, elsewhere = (create_key("lookups:write", allowed_ips=[ip]).key for ip in ("127.0.0.1", "203.0.113.7"))
    assert application.post("/lookups", {"X-API-Key": here}).status_code == 200
    answer = application.post("/lookups", {"X-API-Key": elsewhere, "X-Forwarded-For": "203.0.113.7"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "IP_NOT_ALLOWED")


def test_call_that_fails_in_the_application_costs_nothing(
    app: Flask, alice: User, guarded: Guarded, service_key: Any
) -> None:
    application = guarded()
    assert application.post("/fails", {"X-API-Key": service_key.key}).status_code == 500
    assert recorded(app, alice, "lookups")[1] == "0.000000"


def test_whole_application_is_guarded_but_for_exempt_paths(
    app: Flask, alice: User, guarded: Guarded, service_key: Any
) -> None:
    application = guarded(policy={"meter": "lookups"}, exempt=["/healthz"])
    assert application.post("/healthz", {}).status_code == 200
    assert application.post("/open", {}).status_code == 401
    assert application.post("/open", {"X-API-Key": service_key.key}).status_code == 200
    assert recorded(app, alice, "lookups") == (1, "1.000000")


def test_websocket_without_a_key_is_closed_before_it_opens(platform: str) -> None:
    sent: list[Any] = []

    async def connect() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        async with AsyncClient(platform, "svc_any") as client:
            guard = ApiKeyMiddleware(pytest.fail, client, policy=Policy())
            await guard({"type": "websocket", "path": "/live", "headers": []}, pytest.fail, send)

    asyncio.run(connect())
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "MISSING_API_KEY"}]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_call_is_503_or_passes_as_chosen_while_the_platform_is_away(framework: str) -> None:
    make = functools.partial(FRAMEWORKS[framework], f"http://127.0.0.1:{free_port()}", "svc_any", seconds=0.3)
    answer = make().post("/lookups", {"X-API-Key": "sk_live_any"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
    assert answer.headers["Retry-After"] == "5"
    application = make(fail_open=True)
    answer = application.post("/lookups", {"X-API-Key": "sk_live_any"})
    assert (answer.status_code, answer.json()) == (200, {"customer": None})
    assert application.post("/lookups", {}).status_code == 401


def test_wrong_service_token_lets_nobody_in(guarded: Guarded, service_key: Any) -> None:
    answer = guarded(token="svc_wrong", fail_open=True).post("/lookups", {"X-API-Key": service_key.key})
    assert answer.status_code == 503
