"""Pages of the documentation, pasted into a shell against a web server and a worker."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HANDED_ON = ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER")
END_OF_BLOCK = "--- end of block ---"


def read_blocks(*pages: str) -> list[str]:
    """The shell blocks of some pages; no curl line stands outside of one."""
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in pages)
    assert not re.findall(r"^\s*curl ", _BLOCK.sub("", text), re.MULTILINE)
    return _BLOCK.findall(text)


def shell_environment(config: Mapping[str, Any]) -> dict[str, str]:
    """Environment of the commands and processes of a page, on the engines of the test run and a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    handed = {name: config[name] for name in _HANDED_ON}
    return {**os.environ, **handed, "APP_ENV": "development", "API_PORT": str(port), "WEB_CONCURRENCY": "1"}


@contextmanager
def running_server(environment: Mapping[str, str], log_path: Path, root: Path = ROOT) -> Iterator[str]:
    """Run a web server and a worker; yields the address.

    root: checkout whose code they run
    """
    commands = (["gunicorn", "wsgi:app"], ["flask", "worker"])
    with log_path.open("wb") as log:
        running = [
            subprocess.Popen([sys.executable, "-m", *command], cwd=root, env=environment, stdout=log, stderr=log)
            for command in commands
        ]
        address = f"http://localhost:{environment['API_PORT']}"
        try:
            _wait_until_ready(address, running, log_path)
            yield address
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait(timeout=40)


def _wait_until_ready(address: str, running: list[subprocess.Popen[bytes]], log: Path) -> None:
    for _ in range(300):
        assert all(process.poll() is None for process in running), log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=2) as response:  # noqa: S310 - an address of our own
                assert response.status == 200
                return
        except OSError:  # refused, or too slow while it starts
            time.sleep(0.1)
    pytest.fail(log.read_text())


def paste(blocks: list[str], address: str, environment: Mapping[str, str], root: Path = ROOT) -> list[str]:
    """Run blocks one after the other in one shell; returns the output of each."""
    script = f"\necho '{END_OF_BLOCK}'\n".join(blocks)
    script = script.replace("http://localhost:${API_PORT:-8080}", address)
    # the mailbox of a checkout keeps the mails of earlier runs
    script = re.sub(r"@(?:acme|globex)\.example", f"@{uuid.uuid4().hex}.example", script)
    script = script.replace(".venv/bin/flask", f"{sys.executable} -m flask")
    command = ["bash", "-euo", "pipefail", "-c", script]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=root, env=environment, start_new_session=True, **pipes) as pasted:
        try:
            output, errors = pasted.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(pasted.pid, signal.SIGKILL)  # or its loops would go on after bash is dead
            output, errors = pasted.communicate()
            pytest.fail(f"The page did not end:\n{output}{errors}")
    assert pasted.returncode == 0, output + errors
    return output.split(END_OF_BLOCK)


def documents(text: str) -> list[Any]:
    """The data of every JSON document in a text."""
    data, decoder, position = [], json.JSONDecoder(), 0
    while (position := text.find('{"success"', position)) >= 0:
        document, position = decoder.raw_decode(text, position)
        assert document["success"], document
        data.append(document["data"])
    return data
