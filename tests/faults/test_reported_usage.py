"""With the web, PostgreSQL and Redis killed while services report usage, the ledger has every call once."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from tests.faults.load import create_service, sign_up
from tests.faults.stack import QUICK, Stack, wait_until

THREADS, KILLS = 3, 5


@dataclass
class UsageLoad:
    """Threads that send numbered requests of a service, each until it is answered.

    build: makes the body of a request from its number
    is_right: whether the data of an answer is that of a recorded request
    interruptions: requests that were sent again
    """

    stack: Stack
    token: str
    path: str
    count: int
    build: Callable[[int], dict[str, Any]]
    is_right: Callable[[dict[str, Any]], bool]
    answered: int = 0
    interruptions: int = 0
    problems: list[str] = field(default_factory=list)

    def run(self, roles: tuple[str, ...]) -> None:
        """Send every request while processes of these roles are killed."""
        numbers = itertools.count()
        threads = [threading.Thread(target=self._send_all, args=(numbers,), daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        self.stack.storm(roles, KILLS, (0.1, 0.4))
        for thread in threads:
            thread.join(120)
        wait_until(self.stack.is_ready, 60, "ready")
        assert self.problems == []
        assert self.answered == self.count
        assert self.interruptions > 0

    def _send_all(self, numbers: "itertools.count[int]") -> None:
        session = requests.Session()
        while (number := next(numbers)) < self.count:
            self._send(session, self.build(number))

    def _send(self, session: requests.Session, body: dict[str, Any]) -> None:
        ends_at = time.monotonic() + 60
        headers = {"Authorization": f"Bearer {self.token}"}
        while time.monotonic() < ends_at:
            try:
                response = session.post(f"{self.stack.url}/api/v1{self.path}", json=body, headers=headers, timeout=10)
            except requests.RequestException:
                self.interruptions += 1
                time.sleep(0.05)
                continue
            if response.status_code == 503:
                self.interruptions += 1
                time.sleep(0.05)
                continue
            if response.status_code != 200 or not self.is_right(response.json()["data"]):
                self.problems.append(response.text)
            self.answered += 1
            return
        self.problems.append("no answer within a minute")


@pytest.fixture(scope="module")
def stormed() -> Iterator[Stack]:
    """A product whose processes the tests kill."""
    stack = Stack(dict(QUICK))
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="module")
def token(stormed: Stack) -> str:
    return create_service(stormed, "lookups")


def totals(stormed: Stack, organization_ids: Sequence[str]) -> list[Any]:
    """Number and sum of the events of each organization."""
    ids = [organization_id.removeprefix("org_") for organization_id in organization_ids]
    sql = """SELECT count(*), sum(quantity) FROM usage_events WHERE organization_id = ANY (%s::uuid[])
      GROUP BY organization_id"""
    return stormed.rows(sql, ids)


def test_events_are_recorded_once_though_the_web_and_postgresql_are_killed(stormed: Stack, token: str) -> None:
    owners = [sign_up(stormed, name).organization_id for name in ("acme", "globex")]
    batches, size = 120, 200

    def build(number: int) -> dict[str, Any]:
        events = [
            {"id": f"{number}-{i}", "type": "sms", "subject": owners[i % 2], "data": {"quantity": "0.5"}}
            for i in range(size)
        ]
        return {"events": events}

    def is_right(data: dict[str, Any]) -> bool:
        return bool(data["accepted"] + data["duplicates"] == size)

    UsageLoad(stormed, token, "/events", batches, build, is_right).run(("web child", "web child", "postgres"))
    assert totals(stormed, owners) == [(batches * size / 2, batches * size / 4)] * 2


def test_verified_calls_are_recorded_once_though_the_web_postgresql_and_redis_are_killed(
    stormed: Stack, token: str
) -> None:
    tenant, calls = sign_up(stormed, "initech"), 600

    def build(number: int) -> dict[str, Any]:
        return {"key": tenant.keys["live"], "meter": "sms", "quantity": "0.5", "event_id": f"call-{number}"}

    def is_right(data: dict[str, Any]) -> bool:
        return data["code"] == "VALID" and "usage_event_id" in data

    load = UsageLoad(stormed, token, "/keys/verify", calls, build, is_right)
    load.run(("web child", "postgres", "redis"))
    assert totals(stormed, [tenant.organization_id]) == [(calls, calls / 2)]
