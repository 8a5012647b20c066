"""Wake-ups are missing, repeated or late: due work comes from PostgreSQL and is done exactly once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from statistics import median

import pytest
import redis

from saas_api.cli.commands.scheduler import SCHEDULE_ENTRY_ID
from saas_api.core.jobs import queue
from saas_api.core.jobs.redis_jobs import RedisQueue
from tests.faults import consistency
from tests.faults.load import Load, sign_up
from tests.faults.stack import QUICK, Stack, wait_until

_QUEUE = """
INSERT INTO messages (organization_id, id, mode, channel, recipient, body, next_at, accepted_at, expires_at)
SELECT o.id, gen_random_uuid(), 'test', 'sms', %s, 'x', now(), now(), now() + interval '24 h'
  FROM organizations o, generate_series(1, %s) WHERE o.name = %s
"""
_OF = "FROM messages m JOIN organizations o ON o.id = m.organization_id WHERE o.name = %s"
_OPEN = f"SELECT count(*) {_OF} AND m.next_at IS NOT NULL"
_SENDING = f"SELECT count(*) {_OF} AND m.status = 'sending'"
_ENDS = f"SELECT m.status, m.attempts, m.interruptions, count(*) {_OF} GROUP BY 1, 2, 3"
_CALLS = "SELECT max(calls), count(*) FROM mock_sends s WHERE s.message_id IN (SELECT m.id {})".format(_OF)  # noqa: UP032 - a constant of this file
_LOST = "SELECT coalesce(sum(value), 0)::int FROM delivery_counters WHERE name = 'lease_lost_total'"
SLOW = "+15005550005"
NUMBER = "+2348012345678"
TICKS = "rq:scheduler:scheduled_jobs"


@contextmanager
def paused(*pids: int) -> Iterator[None]:
    """Pause processes until the end of the block; one that has ended meanwhile is passed over."""
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def client(running: Stack) -> redis.Redis:
    return redis.Redis.from_url(running.queue_url)


@pytest.mark.parametrize(("is_dead", "most"), [(False, 20), (True, 40)], ids=["scheduler sweeps", "workers sweep"])
def test_sweep_finds_work_without_a_wake_up(running: Stack, is_dead: bool, most: int) -> None:
    name = f"quiet{int(is_dead)}"
    sign_up(running, name)
    with paused(*[running.pid("scheduler")] * is_dead):
        started = time.monotonic()
        running.rows(_QUEUE, NUMBER, 200, name)
        wait_until(lambda: running.rows(_OPEN, name)[0][0] == 0, most, "all final by sweeps")
        waited = time.monotonic() - started
    print(f"\nno wake-ups, scheduler {'dead' if is_dead else 'alive'}: 200 final after {waited:.1f} s")  # noqa: T201 - the figures are what the round is for
    assert running.rows(_ENDS, name) == [("delivered", 1, 0, 200)]


def test_hundred_wake_ups_process_work_once(running: Stack) -> None:
    sign_up(running, "loud")
    running.rows(_QUEUE, NUMBER, 500, "loud")
    with client(running) as connection:
        carried = RedisQueue("messages", connection)
        for _ in range(100):
            carried.enqueue_call(queue.run_job, args=("messages.drain",), timeout=60, result_ttl=0, failure_ttl=60)
    wait_until(lambda: running.rows(_OPEN, "loud")[0][0] == 0, 60, "all final")
    calls, sent = running.rows(_CALLS, "loud")[0]
    print(f"\n100 wake-ups: {sent} sent, {calls} call each at most")  # noqa: T201 - the figures are what the round is for
    assert (calls, sent) == (1, 500)
    assert running.rows(_ENDS, "loud") == [("delivered", 1, 0, 500)]


def test_worker_that_overslept_its_lease_writes_nothing(running: Stack) -> None:
    sign_up(running, "sleepy")
    lost = running.rows(_LOST)[0][0]
    running.rows(_QUEUE, SLOW, 8, "sleepy")
    wait_until(lambda: running.rows(_SENDING, "sleepy")[0][0] == 8, 20, "claimed")
    horses = running.pids("horse")
    environment = {**os.environ, **running.settings, "TZ": "UTC"}
    command = [sys.executable, "-m", "flask", "worker", "--queue", "messages:1"]
    with paused(*horses), running.log.open("ab") as out:
        other = subprocess.Popen(command, cwd=running.root, env=environment, stdout=out, stderr=out)
        try:
            wait_until(lambda: running.rows(_OPEN, "sleepy")[0][0] == 0, 60, "another has done it")
        finally:
            other.terminate()
            other.wait(40)
    ends = running.rows(_ENDS, "sleepy")
    wait_until(lambda: running.rows(_LOST)[0][0] > lost, 30, "the lost leases are counted")
    counted = running.rows(_LOST)[0][0] - lost
    print(f"\nslept past the lease of {QUICK['LEASE_SECONDS']} s: {counted} leases lost, ends {ends}")  # noqa: T201 - the figures are what the round is for
    assert running.rows(_ENDS, "sleepy") == ends == [("delivered", 1, 1, 8)]


@pytest.mark.parametrize("is_unreadable", [False, True], ids=["deleted", "unreadable"])
def test_schedule_entry_is_restored_when_missing_or_unreadable(running: Stack, is_unreadable: bool) -> None:
    with client(running) as connection:
        wait_until(lambda: connection.zscore(TICKS, SCHEDULE_ENTRY_ID), 20, "the tick")
        if is_unreadable:
            connection.hset(f"rq:job:{SCHEDULE_ENTRY_ID}", "created_at", "rubbish")
            connection.zadd(TICKS, {SCHEDULE_ENTRY_ID: 0})
        else:
            connection.zrem(TICKS, SCHEDULE_ENTRY_ID)
            connection.delete(f"rq:job:{SCHEDULE_ENTRY_ID}")
        started = time.monotonic()
        wait_until(lambda: (connection.zscore(TICKS, SCHEDULE_ENTRY_ID) or 0) > time.time() - 1, 20, "the tick is back")
        assert connection.hget(f"rq:job:{SCHEDULE_ENTRY_ID}", "created_at") != b"rubbish"
    seconds = time.monotonic() - started
    print(f"\nschedule entry {'unreadable' if is_unreadable else 'deleted'}: back after {seconds:.1f} s")  # noqa: T201 - the figures are what the round is for


def test_full_redis_rejects_no_message(running: Stack) -> None:
    with Load(running, [sign_up(running, "full")], threads=2, pause=0.02) as load:
        time.sleep(3)
        before = [seconds for _, seconds in load.statuses]
        load.statuses.clear()
        for connection in running.redis_clients():
            connection.config_set("maxmemory", 1)
        time.sleep(5)
        during = list(load.statuses)
        for connection in running.redis_clients():
            connection.config_set("maxmemory", 0)
    consistency.settle(running, 60)
    violations = consistency.find_violations(running, load)
    consistency.report("redis full", running, load, violations)
    normal, full = median(before), median(seconds for _, seconds in during)
    print(f"median {normal * 1000:.0f} ms before, {full * 1000:.0f} ms while full")  # noqa: T201 - the figures are what the round is for
    assert violations == []
    assert {status for status, _ in during} == {202}
    assert full <= normal + 0.1
