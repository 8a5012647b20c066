"""Two processes close the same month at the same time: one invoice, with one number."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient

from saas_api.core import clock
from tests.journeys.steps import make_key, period_end, send, sign_up

ROOT = Path(__file__).resolve().parents[2]
HANDED_ON = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER")


def closer(config: dict[str, Any], at: str) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        **{name: config[name] for name in HANDED_ON},
        "APP_FAULTS": "1",
        "FAULT": "billing.after_close:sleep=2",
    }
    command = [sys.executable, "-m", "flask", "billing", "close", "--json", "--at", at]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_close_the_same_period_write_one_invoice(
    client: FlaskClient, config: dict[str, Any]
) -> None:
    person = sign_up(client, "Acme", "alice@acme.example")
    _, key = make_key(client, person)
    send(client, key)
    after_the_period = clock.rfc3339(period_end(client, person) + timedelta(hours=2))

    closers = [closer(config, after_the_period) for _ in range(2)]
    outputs = [json.loads(process.communicate(timeout=60)[0]) for process in closers]

    assert [process.returncode for process in closers] == [0, 0]
    written = [invoice["number"] for output in outputs for invoice in output["invoices"]]
    kept = client.get("/api/v1/billing/history", headers=person).json["data"]["invoices"]
    assert sorted(written) == sorted(invoice["number"] for invoice in kept)
    assert len(set(written)) == len(written) == sum(output["closed"] for output in outputs)
    assert sum(invoice["total_requests"] for invoice in kept) == 1
