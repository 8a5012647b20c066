"""With the web and PostgreSQL killed while services send events, the ledger has every event once."""

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import requests

from tests.faults.load import sign_up
from tests.faults.stack import QUICK, Stack, wait_until

BATCH_SIZE, BATCHES, THREADS, KILLS = 200, 120, 3, 5
_CREATE_SERVICE = """
from config import load
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.app import create_app
from saas_api.core.db import tenancy
from saas_api.services import services
with create_app(load()).app_context(), tenancy.system_session("services.tokens") as session:
    print(services.create_service(session, OperatorContext(SYSTEM_ACTOR, "a test"), "lookups").token)
"""


@dataclass
class EventLoad:
    """Threads that send batches of two organizations, each until it is answered.

    interruptions: batches that were sent again
    """

    stack: Stack
    token: str
    organization_ids: list[str]
    answered: int = 0
    interruptions: int = 0
    problems: list[str] = field(default_factory=list)

    def run(self) -> list[threading.Thread]:
        numbers = itertools.count()
        threads = [threading.Thread(target=self._send_all, args=(numbers,), daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        return threads

    def _send_all(self, numbers: "itertools.count[int]") -> None:
        session = requests.Session()
        while (number := next(numbers)) < BATCHES:
            events = [
                {
                    "id": f"{number}-{index}",
                    "type": "sms",
                    "subject": self.organization_ids[index % 2],
                    "data": {"quantity": "0.5"},
                }
                for index in range(BATCH_SIZE)
            ]
            self._send(session, events)

    def _send(self, session: requests.Session, events: list[dict[str, object]]) -> None:
        ends_at = time.monotonic() + 60
        while time.monotonic() < ends_at:
            try:
                response = session.post(
                    f"{self.stack.url}/api/v1/events",
                    json={"events": events},
                    headers={"Authorization": f"Bearer {self.token}"},
                    timeout=10,
                )
            except requests.RequestException:
                self.interruptions += 1
                time.sleep(0.05)
                continue
            if response.status_code == 200:
                data = response.json()["data"]
                if data["accepted"] + data["duplicates"] != BATCH_SIZE:
                    self.problems.append(response.text)
                self.answered += 1
                return
            if response.status_code != 503:
                self.problems.append(response.text)
                return
            self.interruptions += 1
            time.sleep(0.05)
        self.problems.append("no answer within a minute")


def test_events_are_recorded_once_though_the_web_and_postgresql_are_killed(stack: Callable[..., Stack]) -> None:
    running = stack(**QUICK)
    owners = [sign_up(running, name).organization_id for name in ("acme", "globex")]
    command = [sys.executable, "-c", _CREATE_SERVICE]
    token = subprocess.run(command, cwd=running.root, check=True, capture_output=True, text=True).stdout.strip()
    load = EventLoad(running, token, owners)
    threads = load.run()
    running.storm(("web child", "web child", "postgres"), KILLS, (0.1, 0.4))
    for thread in threads:
        thread.join(120)
    wait_until(running.is_ready, 60, "ready")
    assert load.problems == []
    assert load.answered == BATCHES
    assert load.interruptions > 0
    totals = "SELECT count(*), sum(quantity) FROM usage_events GROUP BY organization_id"
    assert running.rows(totals) == [(BATCHES * BATCH_SIZE / 2, BATCHES * BATCH_SIZE / 4)] * 2
