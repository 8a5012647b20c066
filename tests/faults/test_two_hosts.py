"""Two hosts, each with web, worker and scheduler, share PostgreSQL and Redis; then one of them is lost."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import requests

from tests.faults import consistency
from tests.faults.load import Load, Tenant, sign_up
from tests.faults.stack import QUICK, Stack, wait_until
from tests.support.rate_limits import stay_within_a_minute

_LIMIT, _CALLS = 60, 80


@contextmanager
def second_host(first: Stack) -> Iterator[Stack]:
    """Run another copy of the product on the engines and with the secrets of the first."""
    secrets = json.loads((first.root / "instance" / "secrets.json").read_text(encoding="utf-8"))
    stack = Stack({**QUICK, **first.engine_settings, **secrets})
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def lose(host: Stack) -> None:
    """End every process of a host at once, as when its power fails."""
    assert host.process is not None
    supervisor = psutil.Process(host.process.pid)
    processes = [supervisor, *supervisor.children(recursive=True)]
    for process in processes:
        process.suspend()  # or the supervisor would start successors meanwhile
    for process in processes:
        process.kill()


def send_at_both(hosts: tuple[Stack, Stack], tenant: Tenant) -> list[int]:
    """The statuses of calls that go to both hosts at the same time."""
    body = {"to": "+2348012345678", "type": "sms", "message": "Hello"}
    urls = [f"{hosts[number % 2].url}/api/v1/messages/send" for number in range(_CALLS)]
    headers = {"X-API-Key": tenant.keys["test"]}
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda url: requests.post(url, json=body, headers=headers, timeout=15).status_code, urls))


def test_two_hosts_share_limits_and_work_and_one_goes_on_alone(running: Stack) -> None:
    tenant = sign_up(running, "hosts")
    limited = sign_up(running, "limited")
    bearer = {"Authorization": f"Bearer {limited.token}"}
    listed = requests.get(f"{running.url}/api/v1/keys", headers=bearer, timeout=15).json()["data"]["keys"]
    key = next(key for key in listed if key["mode"] == "test")
    changed = requests.patch(
        f"{running.url}/api/v1/keys/{key['id']}", json={"rate_limit_per_minute": _LIMIT}, headers=bearer, timeout=15
    )
    assert changed.ok, changed.text
    with second_host(running) as other, Load(running, [tenant], threads=2, pause=0.02) as load:
        stay_within_a_minute(20)
        statuses = send_at_both((running, other), limited)
        with Load(other, [tenant], threads=2, pause=0.02, prefix="other") as elsewhere:
            time.sleep(2)
        wait_until(lambda: other.pids("horse"), 20, "workers of the other host are busy")
        lose(other)
        time.sleep(2)
    consistency.settle(running, 90)
    load.journal += elsewhere.journal
    violations = consistency.find_violations(running, load)
    consistency.report("one of two hosts lost", running, load, violations)
    assert violations == []
    assert (statuses.count(202), statuses.count(429)) == (_LIMIT, _CALLS - _LIMIT)
    assert {status for status, _ in load.statuses} == {202}
