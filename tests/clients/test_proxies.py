"""nginx and Caddy in front of an unchanged program, with the configurations of examples/."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core.settings import ROOT
from saas_api.services import route_file, routes, services
from tests.support import metering, readme
from tests.support.accounts import User, make_key
from tests.support.installations import open_directory
from tests.support.ports import free_port
from tests.support.rate_limits import stay_within_a_minute
from tests.support.services import change_service, create_service
from tests.support.serving import served

EXAMPLES = ROOT / "examples"
LOOKUP = "/v1/lookups/+2348012345678"
READER = ["lookups:read"]
START_SECONDS = 20


class Program(BaseHTTPRequestHandler):
    """Answers with what it received."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        received = {"path": self.path, "headers": dict(self.headers.items()), "text": self.rfile.read(length).decode()}
        body = json.dumps(received).encode()
        self.send_response(403 if self.path.endswith("/secret") else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@dataclass(frozen=True)
class Response:
    """A response of the proxy."""

    status: int
    headers: Any
    body: Any

    @property
    def outcome(self) -> tuple[int, str]:
        assert self.headers["Content-Type"] == "application/json"
        assert self.body["success"] is False
        return self.status, self.body["error"]["code"]


def call(port: int, path: str, headers: dict[str, str], body: bytes | None = None) -> Response:
    """Send a request to the proxy."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - the address above
            return Response(response.status, response.headers, json.load(response))
    except urllib.error.HTTPError as error:
        return Response(error.code, error.headers, json.load(error))


@contextmanager
def program() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Program)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield int(server.server_address[1])
    server.shutdown()
    server.server_close()


@contextmanager
def proxy(name: str, ports: dict[str, int], token: str) -> Iterator[int]:
    """Run a proxy with its example's configuration and the ports of this test."""
    configuration = EXAMPLES / name / {"nginx": "nginx.conf", "caddy": "Caddyfile"}[name]
    text = configuration.read_text(encoding="utf-8")
    for written, port in ports.items():
        assert f":{written}" in text
        text = text.replace(f":{written}", f":{port}")
    with open_directory() as folder:
        (folder / configuration.name).write_text(text)
        (folder / "service_token.conf").write_text(f'set $service_token "{token}";')
        command = {
            "nginx": ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"],
            "caddy": ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"],
        }[name]
        environment = {**os.environ, "SERVICE_TOKEN": token, "HOME": str(folder)}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_until_listening(ports["9000"], process, folder / "log")
            yield ports["9000"]
        finally:
            process.terminate()
            process.wait(10)


def wait_until_listening(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    ends_at = time.monotonic() + START_SECONDS
    while True:
        try:
            call(port, "/", {})
        except urllib.error.URLError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends_at, log.read_text()
            time.sleep(0.02)
        else:
            return


@pytest.fixture(params=["nginx", "caddy"])
def name(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if shutil.which(name) is None:
        pytest.skip(f"no {name} is installed")
    return name


@pytest.fixture
def token(app: Flask) -> str:
    """The token of the service of the examples."""
    metering.publish_meter(app, **json.loads((EXAMPLES / "nginx" / "meter.json").read_text()))
    token = create_service(app)
    table = route_file.load_routes(json.loads((EXAMPLES / "nginx" / "routes.json").read_text()))
    change_service(app, routes.set_routes, "lookups", table)
    return token


@pytest.fixture
def port(app: Flask, name: str, token: str) -> Iterator[int]:
    """The port of the proxy, with the product behind it."""
    with served(app) as url, program() as program_port:
        ports = {"8080": int(url.rpartition(":")[2]), "9001": program_port, "9000": free_port()}
        with proxy(name, ports, token) as port:
            yield port


def test_allowed_request_reaches_the_program_with_its_customer_and_without_the_key(
    app: Flask, client: FlaskClient, alice: User, port: int
) -> None:
    key = make_key(client, alice, scopes=READER)
    claims = {"X-Organization-Id": "org_of_bob", "X-Original-URI": "/v1/countries", "X-Forwarded-Uri": "/v1/countries"}
    response = call(port, f"{LOOKUP}?statuses=nginx", {**key, **claims})
    assert (response.status, response.body["path"]) == (200, f"{LOOKUP}?statuses=nginx")
    headers = {name.lower(): value for name, value in response.body["headers"].items()}
    assert headers["x-organization-id"] == alice.organization_id
    assert headers["x-key-id"].startswith("key_")
    assert (headers["x-plan"], headers["x-mode"]) == ("free", "live")
    assert "x-api-key" not in headers
    assert re.match(r'"plan";r=\d+;t=\d+', response.headers["RateLimit"])
    assert response.headers["RateLimit-Policy"] == '"plan";q=60;w=60'
    assert metering.usage_events(app, "meter_code, quantity::int") == [("lookups", 1)]


def test_refused_requests_get_the_status_and_body_of_the_platform(
    app: Flask, client: FlaskClient, alice: User, carol: User, port: int
) -> None:
    key = make_key(client, alice, scopes=READER)
    missing, unknown = call(port, LOOKUP, {}), call(port, LOOKUP, {"X-API-Key": "sk_live_" + "0" * 46})
    assert missing.outcome == (401, "MISSING_API_KEY")
    assert unknown.outcome == (401, "INVALID_API_KEY")
    assert missing.headers["WWW-Authenticate"]
    scope = call(port, "/v1/lookups", key, b"{}")
    assert scope.outcome == (403, "INSUFFICIENT_SCOPE")
    assert scope.body["error"]["request_id"].startswith("req_")
    assert call(port, "/v1/prices", key).outcome == (404, "NO_ROUTE")

    prices = {"lookups": {"model": "per_unit", "unit_price": "0.02"}}
    metering.move_to_plan(app, alice, prices=prices)
    assert alice.call("PUT", "/billing/spend-cap", amount="0.01", action="block")[0] == 200
    assert call(port, LOOKUP, key).outcome == (402, "SPEND_CAP_REACHED")

    slow = make_key(client, carol, scopes=READER, rate_limit_per_minute=1)
    stay_within_a_minute(10)
    assert call(port, LOOKUP, slow).status == 200
    limited = call(port, LOOKUP, slow)
    assert limited.outcome == (429, "RATE_LIMIT_EXCEEDED")
    assert 1 <= int(limited.headers["Retry-After"]) <= 60


def test_address_that_a_client_claims_does_not_open_a_key(client: FlaskClient, alice: User, port: int) -> None:
    elsewhere = make_key(client, alice, scopes=READER, allowed_ips=["203.0.113.0/24"])
    for header in ("X-Real-IP", "X-Forwarded-For"):
        assert call(port, LOOKUP, {**elsewhere, header: "203.0.113.7"}).outcome == (403, "IP_NOT_ALLOWED")


def test_revoked_service_token_is_not_a_refusal_of_the_client(
    app: Flask, client: FlaskClient, alice: User, port: int
) -> None:
    key = make_key(client, alice, scopes=READER)
    change_service(app, services.revoke_service, "lookups")
    assert call(port, LOOKUP, key).outcome == (503, "SERVICE_UNAVAILABLE")


def test_refusal_of_the_program_itself_is_left_as_it_is(client: FlaskClient, alice: User, port: int) -> None:
    response = call(port, "/v1/lookups/secret", make_key(client, alice, scopes=READER))
    assert (response.status, response.body["path"]) == (403, "/v1/lookups/secret")


def test_nothing_passes_while_the_platform_is_away(name: str) -> None:
    with program() as program_port:
        ports = {"8080": free_port(), "9001": program_port, "9000": free_port()}
        with proxy(name, ports, "svc_token") as port:
            response = call(port, LOOKUP, {"X-API-Key": "sk_live_alice"})
    assert response.outcome == (503, "SERVICE_UNAVAILABLE")
    assert response.headers["Retry-After"] == "1"


@pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("caddy")), reason="nginx or caddy is not installed")
def test_commands_of_both_pages_lead_to_counted_lookups(app: Flask, config: dict[str, Any]) -> None:
    commands = [
        block
        for name in ("nginx", "caddy")
        for block in readme.blocks((EXAMPLES / name / "README.md").read_text(encoding="utf-8"), "bash")
    ]
    with served(app) as url, open_directory() as folder:
        ports = {"9000": str(free_port()), "9001": str(free_port())}
        shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        for path in folder.rglob("examples/*/*"):
            text = path.read_text(encoding="utf-8")
            for written, port in ports.items():
                text = text.replace(written, port)
            path.write_text(text, encoding="utf-8")
        replaced = {"examples/": f"{folder}/examples/", ":9000": f":{ports['9000']}"}
        environment = {**os.environ, "API_PORT": url.rpartition(":")[2], "TMPDIR": str(folder)}
        outputs = readme.paste(commands, config, environment, replaced)
    *_, with_nginx, _, with_caddy = outputs
    for shown in (with_nginx, with_caddy):
        assert re.findall(r"HTTP/1.1 (\d+)", shown) == ["401", "200", "403"]
        assert '"country": "NG"' in shown
    [usage] = readme.data(with_nginx)
    assert [row["quantity"] for row in usage["by_meter"] if row["meter"] == "lookups"] == ["1"]
