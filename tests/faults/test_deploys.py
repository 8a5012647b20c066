"""A deploy stops every process by SIGTERM while clients send: no message is interrupted or rejected."""

import contextlib
import itertools
import os
import signal
import time

import psutil

from tests.faults import consistency
from tests.faults.load import Load, sign_up
from tests.faults.stack import IS_LONG, Stack, wait_until
from tests.support.http_receiver import run_receiver

ROUNDS = 5 if IS_LONG else 1
EXIT_SECONDS = 30
_INTERRUPTED = """
SELECT (SELECT coalesce(sum(interruptions), 0) FROM messages)
  + (SELECT coalesce(sum(interruptions), 0) FROM webhook_deliveries)
"""
_CUT = "SELECT count(*) FROM webhook_attempts WHERE outcome = 'interrupted'"
_STARTED = "SELECT count(*) FROM webhook_attempts WHERE outcome = 'started'"


def restart(running: Stack, role: str) -> float:
    """Stop a process by SIGTERM, wait for its successor, and return the seconds until it ended."""
    old = running.pid(role)
    process = psutil.Process(old)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 60, f"{role} ended")
    seconds = time.monotonic() - started
    wait_until(lambda: running.pid(role) != old, 30, f"{role} again")
    wait_until(running.is_ready, 30, "ready")
    time.sleep(2)
    return seconds


def test_deploy_under_load_interrupts_nothing(running: Stack) -> None:
    ended: dict[str, float] = {}
    failed: dict[str, set[int]] = {}
    before = running.rows(_INTERRUPTED)[0][0]
    with run_receiver() as receiver:
        tenant = sign_up(running, "acme", [receiver])
        with Load(running, [tenant], threads=3, pause=0.01) as load:
            time.sleep(1)
            for role in itertools.chain(*[("worker", "scheduler", "web")] * ROUNDS):
                load.statuses.clear()
                ended[role] = max(ended.get(role, 0.0), restart(running, role))
                failed.setdefault(role, set()).update({status for status, _ in load.statuses} - {202})
        consistency.settle(running, 60)
        violations = consistency.find_violations(running, load, {receiver.url: receiver})
    interrupted = int(running.rows(_INTERRUPTED)[0][0] - before)
    consistency.report("deploy", running, load, violations)
    times = ", ".join(f"{role} {seconds:.1f} s" for role, seconds in ended.items())
    print(f"ended after {times}; interruptions {interrupted}; besides 202: {failed}")  # noqa: T201 - the figures are what the round is for
    print(f"{len(load.broken)} not connected, {len(load.replayed)} taken in but not answered")  # noqa: T201 - the figures are what the round is for
    assert violations == []
    assert interrupted == 0
    assert max(ended.values()) <= EXIT_SECONDS
    assert failed["worker"] == failed["scheduler"] == set()
    assert failed["web"] <= {0}
    assert load.replayed == [], load.broken


def test_webhook_of_a_killed_worker_is_marked_interrupted_and_retried(running: Stack) -> None:
    with run_receiver() as receiver:
        receiver.seconds = 1.5
        tenant = sign_up(running, "slow", [receiver])
        with Load(running, [tenant], threads=2, most=10) as load:
            before = running.rows(_CUT)[0][0]
            wait_until(lambda: receiver.at_once and running.rows(_STARTED)[0][0], 30, "a webhook under way")
            for pid in running.pids("horse"):
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGKILL)
                    running.kills += 1
            receiver.seconds = 0.0
            load.join(60)
        consistency.settle(running, 90)
        violations = consistency.find_violations(running, load, {receiver.url: receiver})
        again = len(receiver.ids) - len(set(receiver.ids))
    interrupted = running.rows(_CUT)[0][0] - before
    consistency.report("webhook killed", running, load, violations)
    print(f"{interrupted} attempts interrupted, {again} webhooks came again")  # noqa: T201 - the figures are what the round is for
    assert violations == []
    assert interrupted >= 1
