"""Parallel holds pass exactly what is left, and none is lost or counted twice, whatever is killed meanwhile."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import redis
import requests

from tests.faults.load import Tenant, create_service, sign_up
from tests.faults.stack import Stack, wait_until
from tests.support import forks
from tests.support.holds import HOLDS, HoldingOrganization
from tests.support.second_process import web_process

BALANCE, ASKED, THREADS, BEFORE = 10, 500, 24, 4
_QUOTA = """INSERT INTO organization_limits (organization_id, rate_limit_per_minute, ceilings, reason)
  VALUES (%s, 1000000, %s, 'test')"""
_HELD = "SELECT count(*) FROM holds WHERE organization_id = %s AND status = 'open' AND quantity = 1"


@dataclass
class Holder:
    """A service that holds SMS for an organization with a balance for ten."""

    stack: Stack
    token: str
    tenant: Tenant
    refused: int

    @property
    def organization_id(self) -> str:
        return str(UUID(self.tenant.organization_id.removeprefix("org_")))

    def ask(self, number: int, quantity: int = 1) -> int:
        """Ask for one hold until there is a definite answer; returns its status."""
        body = {"key": self.tenant.keys["live"], "meter": "sms", "quantity": quantity, "event_id": f"hold-{number}"}
        headers = {"Authorization": f"Bearer {self.token}"}
        ends_at = time.monotonic() + 60
        while time.monotonic() < ends_at:
            with contextlib.suppress(requests.RequestException):
                status = requests.post(f"{self.stack.url}{HOLDS}", json=body, headers=headers, timeout=15).status_code
                if status < 500:
                    return status
            time.sleep(0.1)
        raise AssertionError(f"no definite answer for hold {number}")

    def count_holds(self) -> int:
        """Number of open holds of one SMS."""
        return int(self.stack.rows(_HELD, self.organization_id)[0][0])


@pytest.fixture(scope="module")
def token(running: Stack) -> str:
    """The token of a service."""
    return create_service(running, "completions")


@pytest.fixture
def holders(running: Stack, token: str, request: pytest.FixtureRequest) -> list[Holder]:
    """An organization with a quota and one with a spend cap that leave ten SMS each.

    The free plan includes 1,000 SMS; the second organization holds them, so that each further one costs 0.01.
    """
    name = f"hold{abs(hash(request.node.name)) % 10_000}"
    limited = Holder(running, token, sign_up(running, f"{name}quota"), 429)
    running.rows(_QUOTA, limited.organization_id, json.dumps({"sms": str(BALANCE)}))
    capped = Holder(running, token, sign_up(running, f"{name}cap"), 402)
    headers = {"Authorization": f"Bearer {capped.tenant.token}"}
    cap = {"amount": f"0.{BALANCE:02}"}
    put = requests.put(f"{running.url}/api/v1/billing/spend-cap", json=cap, headers=headers, timeout=15)
    assert put.status_code == 200, put.text
    assert capped.ask(-1, 1000) == 201
    return [limited, capped]


@contextlib.contextmanager
def race(holders: list[Holder], break_first: Callable[[], object] = bool) -> Iterator[None]:
    """Ask 500 times for each organization, four times one after the other; at the end exactly ten have passed."""
    assert {holder.ask(number) for holder in holders for number in range(BEFORE)} == {201}
    break_first()
    with ThreadPoolExecutor(THREADS) as pool:
        asked = [(holder, pool.submit(holder.ask, number)) for number in range(BEFORE, ASKED) for holder in holders]
        yield
    for holder in holders:
        statuses = Counter(answer.result() for asker, answer in asked if asker is holder)
        assert statuses == {201: BALANCE - BEFORE, holder.refused: ASKED - BALANCE}
        assert holder.count_holds() == BALANCE


def kill(stack: Stack, role: str) -> None:
    wait_until(lambda: stack.kill(role), 10, f"{role} old enough to be killed")


def is_emptied(stack: Stack) -> bool:
    with contextlib.suppress(redis.RedisError):
        return all(client.flushall() for client in stack.redis_clients())
    return False


def test_five_hundred_parallel_holds_pass_exactly_ten(holders: list[Holder]) -> None:
    with race(holders):
        pass


def test_killed_and_emptied_redis_lets_no_hold_more_or_less_pass(running: Stack, holders: list[Holder]) -> None:
    with race(holders, lambda: kill(running, "redis")):
        wait_until(lambda: is_emptied(running), 15, "Redis back")


def test_killed_postgresql_lets_no_hold_more_or_less_pass(running: Stack, holders: list[Holder]) -> None:
    with race(holders):
        kill(running, "postgres")


def test_web_that_is_killed_before_it_answers_has_stored_the_hold(
    acme: HoldingOrganization, config: dict[str, Any]
) -> None:
    acme.set_quota(5)
    acme.hold(1)
    body = {"key": acme.key, "meter": "sms", "quantity": 2, "event_id": "req-1"}
    assert is_killed(config, "holds.after_create", HOLDS, acme.service, body)
    hold_id = acme.hold(2, event_id="req-1")
    assert acme.rows("SELECT count(*), sum(quantity) FROM holds") == [(2, 3)]
    acme.reconcile()
    assert acme.refusal(3) == (429, "QUOTA_EXCEEDED")
    acme.hold(2)
    acme.settle(hold_id, 2)


def test_web_that_is_killed_before_it_counts_has_settled_the_hold(
    acme: HoldingOrganization, config: dict[str, Any]
) -> None:
    acme.set_quota(5)
    acme.set_cap(5)
    hold_id = acme.hold(4)
    assert is_killed(config, "holds.after_settle", f"{HOLDS}/{hold_id}/settle", acme.service, {"quantity": 1})
    assert acme.show(hold_id) == acme.settle(hold_id, 1)
    assert [quantity for _, _, quantity, _ in acme.usage()] == [1]
    acme.reconcile()
    assert acme.refusal(5) == (429, "QUOTA_EXCEEDED")
    acme.hold(4)


def test_worker_that_is_killed_before_it_counts_has_expired_the_hold(
    acme: HoldingOrganization, config: dict[str, Any]
) -> None:
    acme.owner.call("POST", "/webhooks/endpoints", url="https://a.example/hook")
    acme.set_quota(5)
    acme.pass_time(acme.hold(5))
    environment = {**forks.engines_of(config), "APP_FAULTS": "1", "FAULT": "holds.after_expiry:kill"}
    assert forks.run_flask("schedule", "run", "metering.holds", environment=environment).returncode == -9
    acme.sweep()
    assert acme.rows("SELECT type FROM events") == [("hold.expired",)]
    acme.reconcile()
    acme.hold(5)


def is_killed(config: dict[str, Any], fault: str, path: str, headers: dict[str, str], body: Any) -> bool:
    """Whether a web process that has this fault dies of a call."""
    with web_process(config, APP_FAULTS="1", FAULT=f"{fault}:kill") as process:
        try:
            process.call("POST", path, headers, body)
        except EOFError:
            return True
    return False
