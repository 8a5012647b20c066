"""`make run` in a copy of the repository: processes start, are restarted, and stop."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from saas_api.cli.dev.engines import Engines
from tests.support import ports
from tests.support.installations import is_alive, open_directory

ROOT = Path(__file__).resolve().parents[2]
NOT_COPIED = shutil.ignore_patterns(
    *(".git", ".venv", ".env", ".*_cache", "instance", "tests", "bench", "clients", "examples")
)
OWN_SETTINGS = ("DATABASE_URL", "REDIS_URL", "APP_ENV", "APP_URL", "SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER")
PROCESSES = ("web", "worker", "scheduler", "postgres", "redis")


def wait_for(condition: Any, seconds: float = 60, pause: float = 0.05) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(pause)
    return value


class Clone:
    """A copy of the repository and what runs in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = ports.free_port()
        self.key = ""
        self.environment = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}

    def command(self, **settings: str) -> dict[str, Any]:
        environment = self.environment | {"API_PORT": str(self.port)} | settings
        return {
            "args": [sys.executable, "-m", "flask", "dev", "up"],
            "cwd": self.root,
            "env": environment,
            "text": True,
        }

    def up(self) -> tuple["subprocess.Popen[str]", str]:
        """Start it; returns the process and what it printed until and with its READY line."""
        output = self.root / "output"
        with output.open("w") as out:
            process = subprocess.Popen(**self.command(), stdout=out, stderr=subprocess.STDOUT)

        def is_ready_line_printed() -> bool:
            assert process.poll() is None, output.read_text()
            return "\nREADY " in output.read_text()

        wait_for(is_ready_line_printed, 90)
        return process, output.read_text()

    def refused_start(self, **settings: str) -> str:
        """The line it prints when it refuses to start."""
        result = subprocess.run(**self.command(**settings), capture_output=True, timeout=90, check=False)
        assert result.returncode == 1, result.stderr
        assert "Traceback" not in result.stderr
        return result.stderr.strip()

    def pid(self, name: str) -> int:
        return int((self.root / "instance" / "run" / f"{name}.pid").read_text())

    def is_ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as response:
                return bool(response.status == 200 and json.load(response)["redis"] == "ok")
        except (OSError, KeyError):
            return False

    def send(self, output: str) -> str:
        """Paste the curl line that was printed; returns the message's id."""
        [line] = [line for line in output.splitlines() if line.startswith("  curl ")]
        arguments = shlex.split(line)
        headers = dict(arguments[index + 1].split(": ", 1) for index, word in enumerate(arguments) if word == "-H")
        [url] = [word for word in arguments if word.startswith("http")]
        self.key = headers["X-API-Key"]
        assert url.startswith(f"http://localhost:{self.port}/")
        return str(self.request(urlsplit(url).path, headers, arguments[-1])["message_id"])

    def wait_until_delivered(self, message_id: str) -> None:
        path = f"/api/v1/messages/{message_id}"
        pause = 2  # asking counts against the key's limit
        wait_for(lambda: self.request(path, {"X-API-Key": self.key})["status"] == "delivered", 90, pause)

    def request(self, path: str, headers: dict[str, str], body: str | None = None) -> dict[str, Any]:
        request = Request(f"http://127.0.0.1:{self.port}{path}", body.encode() if body else None, headers)
        with urlopen(request, timeout=10) as response:  # noqa: S310 - the address above
            return dict(json.load(response)["data"])


@pytest.fixture(scope="module")
def clone() -> Iterator[Clone]:
    with open_directory() as directory:
        yield Clone(shutil.copytree(ROOT, directory / "repository", ignore=NOT_COPIED))


@pytest.fixture(scope="module")
def starts(clone: Clone) -> Iterator[tuple[str, str]]:
    """What two starts printed; the first was ended by Ctrl-C, the second still runs."""
    process, first = clone.up()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    process, second = clone.up()
    yield first, second
    pids = [clone.pid(name) for name in PROCESSES]
    process.terminate()
    assert process.wait(30) == 0
    assert not list((clone.root / "instance" / "run").glob("*.pid"))
    assert not any(is_alive(pid) for pid in pids)


@pytest.fixture
def running(starts: tuple[str, str]) -> str:
    return starts[1]


def printed_credentials(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("  ")]


def test_second_start_keeps_logins_and_key(starts: tuple[str, str]) -> None:
    first, second = starts
    assert printed_credentials(first) == printed_credentials(second)
    assert printed_credentials(first)


def test_output_ends_with_logins_and_the_ready_line(clone: Clone, running: str) -> None:
    assert f"\nREADY http://localhost:{clone.port}" in running
    for name in ("alice", "bob", "carol"):
        assert re.search(rf"  {name}@\w+\.example +\S+", running)
    wait_for(lambda: all((clone.root / "instance" / "run" / f"{name}.pid").exists() for name in PROCESSES))


def test_printed_demo_login_works(clone: Clone, running: str) -> None:
    match = re.search(r"  (alice@\S+) +(\S+)", running)
    assert match
    body = json.dumps({"email": match[1], "password": match[2]})
    assert clone.request("/api/v1/auth/login", {"Content-Type": "application/json"}, body)["token"]


def test_the_printed_curl_line_sends_a_message(clone: Clone, running: str) -> None:
    message_id = clone.send(running)
    clone.wait_until_delivered(message_id)


@pytest.mark.parametrize("name", PROCESSES)
def test_killed_process_is_restarted_and_accepted_message_delivered(clone: Clone, running: str, name: str) -> None:
    message_id = clone.send(running)
    killed = clone.pid(name)
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: clone.pid(name) != killed)
    wait_for(clone.is_ready)
    clone.wait_until_delivered(message_id)


def test_port_in_use_is_one_line(clone: Clone, running: str) -> None:
    assert (
        clone.refused_start() == f"port {clone.port} cannot be used (Address already in use); set API_PORT to another"
    )


def test_instance_in_use_is_one_line(clone: Clone, running: str) -> None:
    assert re.fullmatch(
        r"\S+ is in use by process \d+; stop that one first", clone.refused_start(API_PORT=str(ports.free_port()))
    )


@pytest.mark.parametrize(
    ("name", "url"),
    [("DATABASE_URL", "postgresql://saas@127.0.0.1:1/saas"), ("REDIS_URL", "redis://127.0.0.1:1/0")],
)
def test_unreachable_engine_is_one_line(clone: Clone, engines: Engines, name: str, url: str) -> None:
    settings = {"DATABASE_URL": engines.database_url, "REDIS_URL": engines.redis_url} | {name: url}
    line = clone.refused_start(API_PORT=str(ports.free_port()), **settings)
    assert line.startswith(f"{name}: ")
    assert "\n" not in line


def test_invalid_setting_is_named(clone: Clone) -> None:
    assert "API_PORT: expected a port" in clone.refused_start(API_PORT="eighty")
