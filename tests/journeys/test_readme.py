"""The quick start of README.md and docs/quickstart.md, pasted into a shell against a running web server and worker."""

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
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

ROOT = Path(__file__).resolve().parents[2]
PAGES = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/quickstart.md"))
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGES, re.MULTILINE | re.DOTALL)
END_OF_BLOCK = "--- end of block ---"
HANDED_ON = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER")


@pytest.fixture
def environment(app: Flask, config: dict[str, Any]) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    handed = {name: config[name] for name in HANDED_ON}
    return {**os.environ, **handed, "APP_ENV": "development", "API_PORT": str(port), "WEB_CONCURRENCY": "1"}


@pytest.fixture
def server(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    commands = (["gunicorn", "wsgi:app"], ["flask", "worker"])
    with (tmp_path / "log").open("wb") as log:
        running = [
            subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=log, stderr=log)
            for command in commands
        ]
        address = f"http://localhost:{environment['API_PORT']}"
        try:
            wait_until_ready(address, running, tmp_path / "log")
            yield address
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait(timeout=40)


def wait_until_ready(address: str, running: list[subprocess.Popen[bytes]], log: Path) -> None:
    for _ in range(300):
        assert all(process.poll() is None for process in running), log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=2) as response:  # noqa: S310 - an address of our own
                assert response.status == 200
                return
        except OSError:  # refused, or too slow while it starts
            time.sleep(0.1)
    pytest.fail(log.read_text())


def paste(blocks: list[str], address: str, environment: dict[str, str]) -> list[str]:
    script = f"\necho '{END_OF_BLOCK}'\n".join(blocks)
    script = script.replace("http://localhost:${API_PORT:-8080}", address)
    # the mailbox of a checkout keeps the mails of earlier runs
    script = script.replace("@acme.example", f"@{uuid.uuid4().hex}.example")
    script = script.replace(".venv/bin/flask", f"{sys.executable} -m flask")
    command = ["bash", "-euo", "pipefail", "-c", script]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes) as pasted:
        try:
            output, errors = pasted.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(pasted.pid, signal.SIGKILL)  # or its loops would go on after bash is dead
            output, errors = pasted.communicate()
            pytest.fail(f"The quick start did not end:\n{output}{errors}")
    assert pasted.returncode == 0, output + errors
    return output.split(END_OF_BLOCK)


def documents(text: str) -> list[Any]:
    """Return the data of every JSON document in a text."""
    data, decoder, position = [], json.JSONDecoder(), 0
    while (position := text.find('{"success"', position)) >= 0:
        document, position = decoder.raw_decode(text, position)
        assert document["success"], document
        data.append(document["data"])
    return data


def test_every_curl_line_of_the_quick_start_is_in_an_executed_block() -> None:
    outside = re.sub(r"^```bash\n.*?^```", "", PAGES, flags=re.MULTILINE | re.DOTALL)
    assert len(BLOCKS) == 12
    assert not re.findall(r"^\s*curl ", outside, re.MULTILINE)


@pytest.mark.long
def test_quick_start_leads_from_sign_up_to_a_paid_invoice_and_a_team(server: str, environment: dict[str, str]) -> None:
    _, _, _, status, usage, bill, change, payment, verified, joined, managed, repeated = paste(
        BLOCKS, server, environment
    )

    (message,) = documents(status)
    assert message["status"] == "delivered"

    summary = documents(usage)[0]["summary"]
    assert summary["total_requests"] == 1
    assert (summary["list_cost"], summary["total_cost"]) == ("0.01", "0.00")

    running, history = documents(bill)
    assert (running["status"], running["total_amount"]) == ("calculating", "0.00")
    (invoice,) = history["invoices"]
    assert invoice["number"]
    assert invoice["total_requests"] == 1

    preview, upgraded, sent = documents(change)
    assert abs(Decimal(preview["difference"]) - Decimal(upgraded["change"]["total"])) <= Decimal("0.01")
    assert upgraded["organization"]["plan"] == "starter"
    assert sent["cost"] == "0.01"
    paid = documents(payment)[-1]
    assert (paid["status"], paid["total_amount"], paid["amount_due"]) == ("paid", "0.01", "0.00")

    assert documents(verified)[0]["email_verified"] is True
    (invitation,) = documents(joined)
    assert invitation["email"].startswith("colleague@")
    promoted, log, _ = documents(managed)
    assert promoted["user"]["role"] == "admin"
    assert {"member.role_changed", "invitation.accepted"} <= {entry["action"] for entry in log["entries"]}

    first, second = repeated.split()[-2:]
    assert first == second
