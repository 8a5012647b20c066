"""The examples run as their pages say, and the ledger has what their customers used."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from flask import Flask

from clients.python.tests.platform_service import EXAMPLES, ROOT, recorded, running_program
from saas_api_client import Client
from tests.support import readme
from tests.support.accounts import User
from tests.support.ports import free_port


class Example(NamedTuple):
    """A running application of an example, and a client for it."""

    client: httpx.Client
    program: "subprocess.Popen[str]"


@contextlib.contextmanager
def running(application: str, port: int, platform: str, token: str, **environment: str) -> Iterator[Example]:
    """Run an application of an example, such as `fastapi/app:app`."""
    folder, _, name = application.partition("/")
    arguments = ["-m", "uvicorn", "--app-dir", str(EXAMPLES / folder), "--port", str(port), "--log-level", "warning"]
    with (
        running_program([*arguments, name], platform, token, **environment) as program,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        yield Example(client, program)


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


def wait_until_no_hold_is_open(superuser: Any) -> None:
    """Wait for the releases that follow a response."""
    ends_at = time.monotonic() + 10
    with superuser, superuser.cursor() as cursor:
        while True:
            cursor.execute("SELECT count(*) FROM holds WHERE status = 'open'")
            if cursor.fetchone() == (0,):
                return
            assert time.monotonic() < ends_at
            time.sleep(0.05)


def test_commands_of_the_pages_run_after_those_of_other_pages(
    app: Flask, config: dict[str, Any], platform: str, tmp_path: Path
) -> None:
    """The page of nginx creates the service and the meter that the page of FastAPI uses."""
    nginx, quick_start, fastapi, llm_proxy = (
        readme.blocks((ROOT / page).read_text(encoding="utf-8"), "bash")
        for page in (
            "examples/nginx/README.md",
            "README.md",
            "examples/fastapi/README.md",
            "examples/llm-proxy/README.md",
        )
    )
    [sign_up] = [block for block in quick_start if "/auth/register" in block]
    ports = {name: str(free_port()) for name in ("LOOKUPS_PORT", "MODEL_PORT", "CHAT_PORT")}
    environment = {**os.environ, **ports, "API_PORT": platform.rpartition(":")[2]}
    replaced = {".venv/bin/uvicorn": f"{sys.executable} -m uvicorn", "instance/": f"{tmp_path}/"}
    outputs = readme.paste([nginx[0], sign_up, *fastapi, *llm_proxy], config, environment, replaced)
    _, _, _, _, called, usage, _, _, _, answer, bill = outputs
    assert re.findall(r'"country":"(\w+)"|"code": "(\w+)"', called) == [("Nigeria", ""), ("", "MISSING_API_KEY")]
    assert '"endpoint":"/v1/lookups"' in usage
    assert re.findall(r"^(?:say|this)$", answer, re.MULTILINE) == ["say", "this"] * 5
    other, large = (line for line in readme.data(bill)[0]["lines"] if line["meter"] == "tokens")
    assert (large["quantity"], large["amount"]) == ("10", "0.10")
    assert float(other["amount"]) > 0
    assert "HTTP/1.1 502" in bill


def test_fastapi_example_meters_each_lookup(
    app: Flask, alice: User, platform: str, service_token: str, service_key: Any, customer: Client
) -> None:
    reader = customer.keys.create("reader", scopes=["usage:read"])
    number = {"number": "+2348012345678"}
    with running("fastapi/app:app", free_port(), platform, service_token) as (lookups, _):
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
def model_proxy(platform: str, service_token: str) -> Iterator[Example]:
    """The proxy, with the program of its model."""
    port = free_port()
    with (
        running("llm-proxy/model:app", port, platform, service_token) as model,
        running(
            "llm-proxy/proxy:app", free_port(), platform, service_token, MODEL_URL=f"http://127.0.0.1:{port}"
        ) as proxy,
    ):
        wait_until_it_answers(model.client)
        wait_until_it_answers(proxy.client)
        yield Example(proxy.client, model.program)


def test_model_proxy_settles_the_tokens_that_were_used(
    app: Flask, alice: User, model_proxy: Example, service_key: Any, superuser: Any
) -> None:
    proxy, model = model_proxy

    def chat(prompt: str, max_tokens: int) -> contextlib.AbstractContextManager[httpx.Response]:
        body = {"prompt": prompt, "model": "large", "max_tokens": max_tokens}
        return proxy.stream("POST", "/v1/chat", json=body, headers={"X-API-Key": service_key.key})

    with chat("one two", 5) as answer:
        assert list(answer.iter_lines()) == ["one", "two", "one", "two", "one"]
    assert wait_until_recorded(app, alice, "tokens", 1) == "5.000000"

    with chat("go on", 4000) as answer:  # the customer hangs up
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(3)] == ["go", "on", "go"]
    after_hanging_up = float(wait_until_recorded(app, alice, "tokens", 2))
    assert 8 <= after_hanging_up < 200

    with chat("go on", 4000) as answer, contextlib.suppress(httpx.RemoteProtocolError):  # the model fails
        tokens = 0
        for tokens, _ in enumerate(answer.iter_lines(), 1):
            if tokens == 3:
                model.kill()
    assert float(wait_until_recorded(app, alice, "tokens", 3)) == after_hanging_up + tokens

    assert proxy.post("/v1/chat", json={"prompt": "hello"}).status_code == 401
    model.wait(10)
    away = proxy.post("/v1/chat", json={"prompt": "hello"}, headers={"X-API-Key": service_key.key})
    assert (away.status_code, away.json()) == (502, {"detail": "the model does not answer"})
    wait_until_no_hold_is_open(superuser)
    assert recorded(app, alice, "tokens")[0] == 3
