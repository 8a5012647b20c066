"""A backlog of one organization, or a message that kills its worker, does not delay other organizations."""

import contextlib
import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.faults import consistency
from tests.faults.load import Load, sign_up
from tests.faults.stack import IS_LONG, QUICK, Stack, wait_until

BACKLOG = 50_000
_QUEUE = """
INSERT INTO messages (organization_id, id, mode, channel, recipient, body, next_at, accepted_at, expires_at)
SELECT o.id, gen_random_uuid(), 'test', 'sms', '+2348012345678', 'x', now(), now(), now() + interval '24 h'
  FROM organizations o, generate_series(1, %s) WHERE o.name = 'noisy'
"""
_WAITS = """
SELECT extract(epoch FROM max(finished_at - accepted_at))::float8, count(*) FROM messages m
  JOIN organizations o ON o.id = m.organization_id WHERE o.name = 'quiet' AND m.finished_at IS NOT NULL
"""
_POISON = """
UPDATE messages SET status = 'sending', lease_token = gen_random_uuid(), interruptions = 10 WHERE next_at IS NOT NULL
"""
_POISONED = "SELECT count(*) FROM messages WHERE error_code = 'poisoned'"


_HELD = """
SELECT m.status = 'sending', m.interruptions, m.status, m.error_code FROM messages m
  JOIN organizations o ON o.id = m.organization_id WHERE o.name = 'noisy'
"""
_ALONE = "SELECT coalesce(max(interruptions), 0) FROM messages WHERE error_code IS DISTINCT FROM 'poisoned'"


def test_another_organization_does_not_wait_for_a_backlog_of_50000(stack: Callable[..., Stack]) -> None:
    running = stack()
    sign_up(running, "noisy")
    quiet = sign_up(running, "quiet")
    running.rows(_QUEUE, BACKLOG)
    time.sleep(1)
    with Load(running, [quiet], threads=1, most=10) as load:
        load.join(30)
    wait_until(lambda: running.rows(_WAITS)[0][1] == 10, 30, "ten delivered")
    waited = running.rows(_WAITS)[0][0]
    left = running.rows("SELECT count(*) FROM messages WHERE next_at IS NOT NULL")[0][0]
    figures = f"{BACKLOG} before 10, which waited {waited:.2f} s at most; {left} were still queued"
    print(f"\nnoisy neighbour: {figures}")  # noqa: T201 - the figures are what the round is for
    assert left > BACKLOG / 2


def test_message_that_kills_its_worker_fails_and_others_arrive(stack: Callable[..., Stack]) -> None:
    running = stack(**QUICK)
    sign_up(running, "noisy")
    acme = sign_up(running, "quiet")
    running.rows(_QUEUE, 1)
    running.rows(_POISON)
    with Load(running, [acme], threads=1, most=20) as load:
        load.join(30)
    wait_until(lambda: running.rows(_WAITS)[0][1] >= 18, 30, "the others arrived")
    wait_until(lambda: running.rows(_POISONED)[0][0] == 1, 30, "poisoned")


@pytest.mark.skipif(not IS_LONG, reason="ten deaths and as many leases: the long round's")
def test_message_fails_after_ten_interruptions(stack: Callable[..., Stack]) -> None:
    running = stack(**{**QUICK, "LEASE_SECONDS": "2"})
    sign_up(running, "noisy")
    acme = sign_up(running, "quiet")
    running.rows(_QUEUE, 1)
    running.rows("UPDATE messages SET recipient = '+15005550005'")  # takes two seconds, in which its holder dies
    deaths, ends_at = 0, time.monotonic() + 180
    with Load(running, [acme], threads=1, most=200, pause=0.2) as load:
        while (row := running.rows(_HELD)[0])[2] in ("queued", "sending"):
            assert time.monotonic() < ends_at, row
            if row[0] and row[1] == deaths:
                for horse in running.pids("horse"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(horse, signal.SIGKILL)
                    running.kills += 1
                deaths += 1
            time.sleep(0.05)
        load.join(120)
    consistency.settle(running, 60)
    violations = consistency.find_violations(running, load)
    consistency.report("poison", running, load, violations)
    others = running.rows(_ALONE)[0][0]
    print(f"{deaths} deaths, then {row[2]} {row[3]}; others were interrupted {others} times at most")  # noqa: T201 - the figures are what the round is for
    assert violations == []
    assert row[1:] == (10, "failed", "poisoned")
    assert others < 10
