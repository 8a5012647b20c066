"""The examples run as their pages say, and the ledger has what their customers used."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from flask import Flask

from clients.python.tests.platform_service import EXAMPLES, recorded, running_program
from saas_api_client import Client
from tests.support.accounts import User
from tests.support.web_server import free_port


@contextlib.contextmanager
def running(application: str, port: int, platform: str, token: str, **environment: str) -> Iterator[httpx.Client]:
    """Run an application of an example, such as `fastapi/app:app`, and yield a client for it."""
    folder, _, name = application.partition("/")
    arguments = ["-m", "uvicorn", "--app-dir", str(EXAMPLES / folder), "--port", str(port), "--log-level", "warning"]
    with (
        running_program([*arguments, name], platform, token, **environment),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        yield client


def wait_until_it_answers(client: httpx.Client) -> None:
    ends_at = time.monotonic() + 20
    while True:
        with contextlib.suppress(httpx.ConnectError):
            client.get("/openapi.json")
            return
        assert time.monotonic() < ends_at, "the example did not start"
        time.sleep(0.05)


def wait_until_recorded(app: Flask, user: User, meter: str, events: int) -> str:
    ends_at = time.monotonic() + 10
    while (found := recorded(app, user, meter))[0] < events:
        assert time.monotonic() < ends_at, found
        time.sleep(0.05)
    return found[1]


def test_fastapi_example_meters_each_lookup(
    app: Flask, alice: User, platform: str, service_token: str, service_key: Any, customer: Client
) -> None:
    reader = customer.keys.create("reader", scopes=["usage:read"])
    number = {"number": "+2348012345678"}
    with running("fastapi/app:app", free_port(), platform, service_token) as lookups:
        wait_until_it_answers(lookups)
        answer = lookups.post("/v1/lookups", json=number, headers={"X-API-Key": service_key.key})
        assert answer.json() == {**number, "country": "Nigeria", "customer": alice.organization_id}
        assert lookups.post("/v1/lookups", json=number).status_code == 401
        assert lookups.post("/v1/lookups", json=number, headers={"X-API-Key": reader.key}).status_code == 403
    assert recorded(app, alice, "lookups") == (1, "1.000000")
    with Client(platform, service_key.key) as client:
        [endpoint] = [row for row in client.usage.get().by_endpoint if row.success_count]
    assert (endpoint.method, endpoint.endpoint) == ("POST", "/v1/lookups")


@pytest.fixture
def model_proxy(platform: str, service_token: str) -> Iterator[httpx.Client]:
    port = free_port()
    with (
        running("llm-proxy/model:app", port, platform, service_token) as model,
        running(
            "llm-proxy/proxy:app", free_port(), platform, service_token, MODEL_URL=f"http://127.0.0.1:{port}"
        ) as proxy,
    ):
        wait_until_it_answers(model)
        wait_until_it_answers(proxy)
        yield proxy


def test_model_proxy_settles_the_tokens_that_were_used(
    app: Flask, alice: User, model_proxy: httpx.Client, service_key: Any
) -> None:
    headers = {"X-API-Key": service_key.key}
    answer = model_proxy.post("/v1/chat", json={"prompt": "one two", "max_tokens": 5}, headers=headers)
    assert answer.text.split() == ["one", "two", "one", "two", "one"]
    assert wait_until_recorded(app, alice, "tokens", 1) == "5.000000"

    with model_proxy.stream(
        "POST", "/v1/chat", json={"prompt": "go on", "max_tokens": 4000}, headers=headers
    ) as stream:
        lines = stream.iter_lines()
        assert [next(lines) for _ in range(3)] == ["go", "on", "go"]
    quantity = float(wait_until_recorded(app, alice, "tokens", 2)) - 5
    assert 3 <= quantity < 200, "a customer who hangs up pays for what was said until then"

    assert model_proxy.post("/v1/chat", json={"prompt": "hello"}).status_code == 401
