"""The code examples in docs/webhooks.md, run against our signatures."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from saas_api.webhooks import payload
from tests.support.ports import free_port

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
EVENT = {"id": "evt_1", "type": "webhook.test", "data": {"name": "Zoë"}}
BODY = json.dumps(EVENT, ensure_ascii=False).encode()
SECRET = payload.generate_secret()


def block(language: str, beginning: str) -> str:
    """Return the code block of a language with a given beginning."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (only,) = [text for text in blocks if text.startswith(beginning)]
    return str(only)


def signed(*secrets: str, at: int | None = None) -> dict[str, str]:
    return payload.signature_headers(secrets, "evt_1", int(time.time()) if at is None else at, BODY)


Verify = Callable[[str, Mapping[str, str], bytes], Any]


def by_python(secret: str, headers: Mapping[str, str], body: bytes) -> Any:
    names: dict[str, Any] = {}
    exec(block("python", "import"), names)  # noqa: S102 - the snippet of the page
    return names["verify"](secret, headers, body)


def by_node(secret: str, headers: Mapping[str, str], body: bytes) -> Any:
    script = block("javascript", "const") + (
        "const [secret, headers, body] = JSON.parse(require('node:fs').readFileSync(0));\n"
        "try { console.log(JSON.stringify(verify(secret, headers, Buffer.from(body, 'base64')))); }\n"
        "catch (problem) { console.log(problem.message); process.exitCode = 3; }"
    )
    import base64

    given = json.dumps([secret, headers, base64.b64encode(body).decode()])
    result = subprocess.run(
        ["node", "-e", script], input=given, capture_output=True, text=True, check=False, timeout=30
    )
    if result.returncode == 3:
        raise ValueError(result.stdout)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(params=[by_python, by_node])
def verify(request: pytest.FixtureRequest) -> Verify:
    if request.param is by_node and not shutil.which("node"):
        pytest.skip("there is no node here")
    implementation: Verify = request.param
    return implementation


def test_snippet_verifies_our_signature(verify: Verify) -> None:
    assert verify(SECRET, signed(SECRET), BODY) == EVENT


def test_snippet_accepts_one_match_among_several_signatures(verify: Verify) -> None:
    assert verify(SECRET, signed(payload.generate_secret(), SECRET), BODY) == EVENT


def test_snippet_rejects_another_secret(verify: Verify) -> None:
    with pytest.raises(ValueError, match="not signed"):
        verify(SECRET, signed(payload.generate_secret()), BODY)


def test_snippet_rejects_another_body(verify: Verify) -> None:
    with pytest.raises(ValueError, match="not signed"):
        verify(SECRET, signed(SECRET), BODY + b" ")


@pytest.mark.parametrize("seconds", [-301, 310])
def test_snippet_rejects_a_timestamp_five_minutes_away(verify: Verify, seconds: int) -> None:
    with pytest.raises(ValueError, match="too old"):
        verify(SECRET, signed(SECRET, at=int(time.time()) + seconds), BODY)


def test_receiver_contains_the_python_snippet() -> None:
    snippet = block("python", "import").partition("def verify")[2]
    lines = [line for line in snippet.splitlines() if '"""' not in line]
    assert "\n".join(lines) in block("bash", "cat > receiver.py")


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def receiver(tmp_path: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    """The example receiver, running."""
    subprocess.run(["bash", "-c", block("bash", "cat > receiver.py")], cwd=tmp_path, check=True)
    environment = {**os.environ, "WEBHOOK_SECRET": SECRET, "PORT": str(port)}
    command = [sys.executable, "receiver.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as running:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield running
        running.terminate()


def test_receiver_accepts_the_signature_of_the_openssl_example(receiver: "subprocess.Popen[str]", port: int) -> None:
    script = block("bash", "ID=evt_by_hand").replace("9000", str(port))
    for secret, response in ((SECRET, "204"), (SECRET, "204"), (payload.generate_secret(), "401")):
        environment = {**os.environ, "SECRET": secret}
        result = subprocess.run(
            ["bash", "-eu", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=30
        )
        assert result.stdout.strip() == response
    assert receiver.stdout is not None
    assert [receiver.stdout.readline().strip() for _ in range(3)] == [
        "verified: webhook.test evt_by_hand",
        "verified: webhook.test evt_by_hand (seen before)",
        "refused: not signed with this secret",
    ]


def test_every_path_on_the_page_exists(app: Any) -> None:
    named = set(re.findall(r"/webhooks/[a-z{}/-]+", PAGE.replace("$ENDPOINT_ID", "{id}")))
    rules_of_app = {re.sub(r"<[^>]*>", "{id}", rule.rule).removeprefix("/api/v1") for rule in app.url_map.iter_rules()}
    assert named
    assert {path.rstrip("/") for path in named} <= rules_of_app
