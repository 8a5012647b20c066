"""Every block of the README of the client: the commands in one shell, the programs one by one."""

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support import metering, node, readme
from tests.support.accounts import User, make_key
from tests.support.ports import free_port
from tests.support.services import create_service
from tests.support.serving import served

PAGE = (node.PACKAGE / "README.md").read_text(encoding="utf-8")
PROGRAMS = readme.blocks(PAGE, "js")
BAD_BODIES = ('{"numbers": []}', '{"numbers": "+49"}', "{}")
SERVERS = [program for program in PROGRAMS if "process.env.PORT" in program]


@pytest.mark.long
def test_commands_lead_to_an_invoice_with_a_line_for_the_api(
    app: Flask, config: dict[str, Any], environment: dict[str, str], tmp_path: Path
) -> None:
    commands = readme.blocks(PAGE, "bash")
    assert len(commands) == 7
    commands.insert(
        -1, "\n".join(f"curl -s $LOOKUPS -H 'Content-Type: application/json' -d '{body}'" for body in BAD_BODIES)
    )
    own = {"PORT": str(free_port()), "npm_config_prefer_offline": "1", "npm_config_loglevel": "error"}
    replaced = {
        node.BUILD_COMMANDS: "true",  # done by the fixture
        "instance/": f"{tmp_path}/",
        "~/lookups-api": str(tmp_path / "lookups-api"),
    }
    with served(app) as url:
        own["API_PORT"] = url.rpartition(":")[2]
        outputs = readme.paste(commands, config, {**environment, **own}, replaced)
    *_, calls, refusals, bill = outputs
    assert refusals.count("numbers is a list") == len(BAD_BODIES)
    assert re.findall(r'"code":"(\w+)"', calls) == ["MISSING_API_KEY", "INSUFFICIENT_SCOPE"]
    assert '"country":"NG","for":"org_' in calls
    assert re.search(r"^RateLimit: ", calls, re.MULTILINE)

    batch_status, *_ = bill.split()
    usage, invoice = readme.data(bill)
    assert batch_status == "200"
    assert usage["summary"]["successful_requests"] == 2
    [line] = [line for line in invoice["lines"] if line["meter"] == "lookups"]
    assert (line["quantity"], line["amount"], invoice["total_amount"]) == ("150", "1.00", "1.00")


@pytest.fixture
def settings(app: Flask, client: FlaskClient, alice: User, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    metering.publish_meter(app)
    with served(app) as url:
        yield {
            **environment,
            "PLATFORM_URL": url,
            "SERVICE_TOKEN": create_service(app),
            "TOKEN": alice.token,
            "ORGANIZATION": alice.organization_id,
            "KEY": make_key(client, alice, scopes=["lookups:read", "usage:read"])["X-API-Key"],
            "WEBHOOK_SECRET": "whsec_c2VjcmV0",
            "PORT": str(free_port()),
        }


def test_programs_without_a_middleware_do_what_the_page_says(app: Flask, settings: dict[str, str]) -> None:
    programs = [program for program in PROGRAMS if program not in SERVERS]
    verified, held, recorded, sent = (
        node.run("node", "--input-type=module", "--eval", program, folder=node.PACKAGE, environment=settings)
        for program in programs
    )
    assert verified == f"true VALID {settings['ORGANIZATION']} 3\n"
    assert held == "settled\n"
    assert recorded == "0\n"
    assert sent == "queued 2\n"
    quantities = [quantity for (quantity,) in metering.usage_events(app, "quantity::int")]
    assert quantities == [3, -3, 123, *[2] * 2500, 1]


def test_servers_answer_keys_and_refuse_webhooks_without_signature(settings: dict[str, str]) -> None:
    fastify, hono, webhooks = SERVERS
    address = f"http://127.0.0.1:{settings['PORT']}"
    for program in (fastify, hono):
        with serving(program, settings):
            assert status(f"{address}/v1/lookups/49", {}) == 401
            assert status(f"{address}/v1/lookups/49", {"X-API-Key": settings["KEY"]}) == 200
    with serving(webhooks, settings):
        assert status(f"{address}/hook", {"Content-Type": "application/json"}, b"{}") == 401


@contextmanager
def serving(program: str, settings: dict[str, str]) -> Iterator[None]:
    """Run a server until the end of the block."""
    command = [node.find_binary(settings), "--input-type=module", "--eval", program]
    with subprocess.Popen(command, cwd=node.PACKAGE, env=settings) as process:
        try:
            yield
        finally:
            process.terminate()


def status(url: str, headers: dict[str, str], body: bytes | None = None) -> int:
    """Call a server that may still be starting."""
    ends_at = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as response:  # noqa: S310 - of a test
                json.load(response)
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except urllib.error.URLError:
            assert time.monotonic() < ends_at
            time.sleep(0.05)
