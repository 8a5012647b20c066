"""examples/express in front of the product: what its customers get, and what they are charged."""

import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core.settings import ROOT
from tests.support import metering, node, readme
from tests.support.accounts import User, make_key
from tests.support.ports import free_port
from tests.support.rate_limits import stay_within_a_minute
from tests.support.services import create_service
from tests.support.serving import served

EXAMPLE = ROOT / "examples" / "express"
NUMBERS = ["+2348012345678", "+49301234567", "+15550100"]
BOTH_SCOPES = ["lookups:read", "lookups:write"]


@dataclass(frozen=True)
class Response:
    """A response of the example."""

    status: int
    headers: Any
    body: Any

    @property
    def outcome(self) -> tuple[int, str | None]:
        return self.status, self.body.get("error", {}).get("code")


@dataclass(frozen=True)
class Example:
    """The running example."""

    port: int

    def look_up(self, headers: dict[str, str], number: str = NUMBERS[0]) -> Response:
        return self._call(f"/v1/lookups/{number}", headers)

    def look_up_all(self, headers: dict[str, str], numbers: Any) -> Response:
        body = json.dumps({"numbers": numbers}).encode()
        return self._call("/v1/lookups", {**headers, "Content-Type": "application/json"}, body)

    def _call(self, path: str, headers: dict[str, str], body: bytes | None = None) -> Response:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - the address above
                return Response(response.status, response.headers, json.load(response))
        except urllib.error.HTTPError as error:
            return Response(error.code, error.headers, json.load(error))


@contextmanager
def started(environment: dict[str, str], folder: Path, platform: str, token: str) -> Iterator[Example]:
    """Run the example as `npm start` does, with the packages that the client is tested with."""
    modules = folder / "node_modules"
    modules.mkdir()
    (modules / "express").symlink_to(node.PACKAGE / "node_modules" / "express")
    (modules / "saas-api-client").symlink_to(node.PACKAGE)
    for name in ("package.json", "server.js"):
        (folder / name).write_bytes((EXAMPLE / name).read_bytes())
    port = free_port()
    settings = {"PLATFORM_URL": platform, "SERVICE_TOKEN": token, "PORT": str(port)}
    command = [node.find_binary(environment), "server.js"]
    with subprocess.Popen(command, cwd=folder, env={**environment, **settings}, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"listening\n"
            yield Example(port)
        finally:
            process.terminate()


@pytest.fixture
def example(app: Flask, environment: dict[str, str], tmp_path: Path) -> Iterator[Example]:
    metering.publish_meter(app)
    with served(app) as url, started(environment, tmp_path, url, create_service(app)) as example:
        yield example


def test_calls_are_answered_counted_and_charged(app: Flask, client: FlaskClient, alice: User, example: Example) -> None:
    metering.move_to_plan(app, alice, prices={"lookups": {"model": "per_unit", "unit_price": "0.02"}})
    headers = make_key(client, alice, scopes=BOTH_SCOPES)
    one, three = example.look_up(headers), example.look_up_all(headers, NUMBERS)
    assert one.body["data"] == {"number": "+2348012345678", "country": "NG"}
    assert [lookup["country"] for lookup in three.body["data"]["lookups"]] == ["NG", "DE", "US"]
    assert one.headers["RateLimit-Policy"] == '"plan";q=60;w=60'
    assert one.headers["RateLimit"].startswith('"plan";r=59;t=')

    rows = metering.usage_events(app, "quantity::int, endpoint")
    assert rows == [(1, "GET /v1/lookups/:number"), (3, "POST /v1/lookups")]
    _, bill = alice.call("GET", "/billing/calculate")
    assert bill["total_amount"] == "0.08"


def test_bad_input_is_refused_before_it_costs_anything(
    app: Flask, client: FlaskClient, alice: User, example: Example
) -> None:
    headers = make_key(client, alice, scopes=BOTH_SCOPES)
    for numbers in ([], "+49", [7]):
        assert example.look_up_all(headers, numbers).outcome == (422, "VALIDATION_ERROR")
    assert metering.usage_events(app) == []


def test_refused_keys_get_the_status_of_their_code(client: FlaskClient, alice: User, example: Example) -> None:
    reader = make_key(client, alice, scopes=["lookups:read"])
    elsewhere = make_key(client, alice, scopes=BOTH_SCOPES, allowed_ips=["203.0.113.0/24"])
    assert example.look_up({}).outcome == (401, "MISSING_API_KEY")
    assert example.look_up({"X-API-Key": "sk_live_" + "0" * 46}).outcome == (401, "INVALID_API_KEY")
    assert example.look_up_all(reader, NUMBERS).outcome == (403, "INSUFFICIENT_SCOPE")
    assert example.look_up(elsewhere).outcome == (403, "IP_NOT_ALLOWED")


def test_rate_limit_quota_and_spend_cap_stop_calls(
    app: Flask, client: FlaskClient, alice: User, carol: User, example: Example
) -> None:
    slow = make_key(client, carol, scopes=BOTH_SCOPES, rate_limit_per_minute=1)
    stay_within_a_minute(10)
    assert example.look_up(slow).status == 200
    limited = example.look_up(slow)
    assert limited.outcome == (429, "RATE_LIMIT_EXCEEDED")
    assert 1 <= int(limited.headers["Retry-After"]) <= 60
    assert limited.body["error"]["request_id"].startswith("req_")

    quota = {"lookups_quota": {"meter": "lookups", "limit": "2"}}
    prices = {"lookups": {"model": "per_unit", "unit_price": "0.02"}}
    metering.move_to_plan(app, carol, "small", entitlements=quota, prices=prices)
    assert example.look_up_all(make_key(client, carol, scopes=BOTH_SCOPES), NUMBERS).outcome == (429, "QUOTA_EXCEEDED")

    metering.move_to_plan(app, alice, prices=prices)
    assert alice.call("PUT", "/billing/spend-cap", amount="0.05", action="block")[0] == 200
    headers = make_key(client, alice, scopes=BOTH_SCOPES)
    assert example.look_up(headers).status == 200
    assert example.look_up_all(headers, NUMBERS).outcome == (402, "SPEND_CAP_REACHED")


def test_commands_of_the_page_lead_to_three_lookups(
    app: Flask, config: dict[str, Any], environment: dict[str, str], tmp_path: Path
) -> None:
    package = json.loads((EXAMPLE / "package.json").read_text())
    package["dependencies"]["saas-api-client"] = f"file:{node.PACKAGE}"
    (tmp_path / "package.json").write_text(json.dumps(package))
    (tmp_path / "server.js").write_bytes((EXAMPLE / "server.js").read_bytes())
    replaced = {"examples/express": str(tmp_path), node.BUILD_COMMANDS: "true"}
    with served(app) as url:
        own = {"API_PORT": url.rpartition(":")[2], "PORT": str(free_port()), "npm_config_prefer_offline": "1"}
        commands = readme.blocks((EXAMPLE / "README.md").read_text(encoding="utf-8"), "bash")
        *_, calls = readme.paste(commands, config, {**environment, **own}, replaced)
    assert re.findall(r"HTTP/1.1 (\d+)", calls) == ["200", "200"]
    assert metering.usage_events(app) == [("lookups", 1), ("lookups", 2)]
