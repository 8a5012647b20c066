"""Delivery of messages: final statuses by test recipient, leases, and workers that are killed."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core.jobs import queue, schedule
from saas_api.core.jobs.outbox import RowResult
from saas_api.messages import dispatch
from tests.support import forks
from tests.support.messages import MAIL, MessagingOrganization, Work, make_due, provider_calls, queue_many, rows


@pytest.fixture
def acme(client: FlaskClient) -> MessagingOrganization:
    return MessagingOrganization(client, "Acme", "alice@acme.example")


@pytest.fixture
def start(config: dict[str, Any], app: Flask) -> Iterator[Callable[..., ForkServerProcess]]:
    """Start `flask ...` on the engines of the test, in a process group that ends with the test."""
    started: list[ForkServerProcess] = []

    def run(*arguments: str, **changes: str) -> ForkServerProcess:
        environment = {**forks.engines_of(config), "TZ": "UTC", **changes}
        started.append(forks.start_flask(*arguments, environment=environment))
        return started[-1]

    yield run
    for process in started:
        process.terminate()  # a killed supervisor leaves workers, which would claim messages of the next test
    for process in started:
        process.join(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join(10)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.1)


def count_job_runs(app: Flask) -> int:
    with app.app_context():
        return len(schedule.list_last_runs())


def count_open_messages(app: Flask, acme: MessagingOrganization) -> int:
    return int(rows(app, acme.id, "SELECT count(*) FROM messages WHERE next_at IS NOT NULL")[0][0])


@pytest.mark.parametrize(
    ("recipient", "error_code"),
    [
        ("+15005550001", "invalid_recipient"),
        ("+15005550002", "unreachable"),
        ("+15005550009", "opted_out"),
        ("invalid@simulator.example", "invalid_recipient"),
        ("bounce@simulator.example", "bounced"),
        ("optout@simulator.example", "opted_out"),
    ],
)
def test_rejected_message_fails_at_once_and_its_usage_is_reversed(
    app: Flask, acme: MessagingOrganization, work: Work, recipient: str, error_code: str
) -> None:
    changes = {**MAIL, "to": recipient} if "@" in recipient else {"to": recipient}
    sent = acme.send(**changes)["message_id"]
    work()
    message = acme.show(sent)
    assert (message["status"], message["error_code"], message["attempts"]) == ("failed", error_code, 1)
    assert message["delivered_at"] is None
    assert rows(app, acme.id, "SELECT sum(quantity), count(*) FROM usage_events") == [(0, 2)]


@pytest.mark.parametrize(
    ("recipient", "attempts"), [("+15005550003", 3), ("+15005550007", 2), ("+15005550008", 2), ("+15005550005", 1)]
)
def test_message_with_a_temporary_failure_is_delivered_by_a_retry(
    app: Flask, acme: MessagingOrganization, recipient: str, attempts: int
) -> None:
    sent = acme.send(to=recipient)["message_id"]
    for attempt in range(1, attempts + 1):
        with app.app_context():
            make_due(app, acme.id)
            dispatch.deliver_batch(acme.id)
        message = acme.show(sent)
        assert message["attempts"] == attempt
        assert message["status"] == ("delivered" if attempt == attempts else "queued")
    assert message["error_code"] is None
    assert [row.calls for row in provider_calls(app)] == [attempts]


def test_message_fails_after_its_eighth_failed_attempt(app: Flask, acme: MessagingOrganization) -> None:
    sent = acme.send(to="+15005550004")["message_id"]
    with app.app_context():
        for _ in range(8):
            make_due(app, acme.id)
            dispatch.deliver_batch(acme.id)
    message = acme.show(sent)
    assert (message["status"], message["error_code"], message["attempts"]) == ("failed", "provider_unavailable", 8)
    assert rows(app, acme.id, "SELECT sum(quantity) FROM usage_events") == [(0,)]


def test_result_under_a_lost_lease_is_not_recorded(app: Flask, acme: MessagingOrganization) -> None:
    sent = acme.send()["message_id"]
    with app.app_context():
        first = dispatch.claim_batch(acme.id)
        make_due(app, acme.id)
        second = dispatch.claim_batch(acme.id)
        [row], [again] = first.rows, second.rows
        assert (again.id, again.interruptions) == (row.id, 1)
        dispatch.record_results(acme.id, first, [RowResult(row.id, "failed", "unreachable")])
        assert acme.show(sent)["status"] == "sending"
        dispatch.record_results(acme.id, second, [RowResult(again.id, "delivered")])
    assert acme.show(sent)["status"] == "delivered"
    assert rows(app, acme.id, "SELECT count(*) FROM usage_events") == [(1,)]


def test_message_interrupted_ten_times_fails_as_poisoned(app: Flask, acme: MessagingOrganization) -> None:
    sent = acme.send()["message_id"]
    with app.app_context():
        for _ in range(10):
            assert len(dispatch.claim_batch(acme.id).rows) == 1
            make_due(app, acme.id)
        dispatch.deliver_batch(acme.id)
    message = acme.show(sent)
    assert (message["status"], message["error_code"]) == ("failed", "poisoned")
    assert provider_calls(app) == []


def test_message_whose_provider_call_would_outlast_the_lease_is_given_back(
    app: Flask, acme: MessagingOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = acme.send()["message_id"]
    monkeypatch.setattr(dispatch, "MAX_SENDING_SHARE", -1)
    with app.app_context():
        assert dispatch.deliver_batch(acme.id) == 1
    assert (acme.show(sent)["status"], acme.show(sent)["attempts"]) == ("queued", 0)
    assert provider_calls(app) == []


def test_expired_message_fails_without_a_provider_call(app: Flask, acme: MessagingOrganization) -> None:
    sent = acme.send()["message_id"]
    rows(app, acme.id, "UPDATE messages SET expires_at = now() RETURNING id")
    with app.app_context():
        dispatch.deliver_batch(acme.id)
    assert (acme.show(sent)["status"], acme.show(sent)["error_code"]) == ("failed", "expired")
    assert provider_calls(app) == []


def test_sweep_delivers_messages_without_a_wake_up(app: Flask, acme: MessagingOrganization, work: Work) -> None:
    queue_many(app, acme.id, 3)
    work()
    assert count_open_messages(app, acme) == 3
    with app.app_context():
        schedule.run_sweeps()
    work()
    assert count_open_messages(app, acme) == 0


def test_backlog_of_one_organization_does_not_delay_another(
    app: Flask, acme: MessagingOrganization, work: Work
) -> None:
    carol = MessagingOrganization(acme.client, "Carol's", "carol@carols.example")
    queue_many(app, acme.id, 1000)
    sent = carol.send()["message_id"]
    work()
    assert carol.show(sent)["status"] == "delivered"
    before = "SELECT count(*) FROM messages WHERE finished_at < (SELECT max(finished_at) FROM messages)"
    assert rows(app, acme.id, before)[0][0] >= 1000 - dispatch.CLAIM_BATCH_SIZE
    assert count_open_messages(app, acme) == 0


@pytest.mark.long
def test_two_workers_on_one_queue_send_every_message_once(
    app: Flask, acme: MessagingOrganization, start: Callable[..., ForkServerProcess]
) -> None:
    ids = queue_many(app, acme.id, 1500)
    for _ in range(2):
        start("worker", "--only", "messages")
        with app.app_context():
            queue.wake_workers("messages.drain", is_forced=True)
    wait_until(lambda: count_open_messages(app, acme) == 0)
    sent = provider_calls(app)
    assert {row.message_id for row in sent} == set(ids)
    assert {row.calls for row in sent} == {1}
    assert rows(app, acme.id, "SELECT DISTINCT status, attempts, interruptions FROM messages") == [("delivered", 1, 0)]


@pytest.mark.long
def test_messages_claimed_by_a_killed_worker_are_delivered_by_another(
    app: Flask, acme: MessagingOrganization, start: Callable[..., ForkServerProcess]
) -> None:
    ids = queue_many(app, acme.id, 300)
    with app.app_context():
        queue.wake_workers("messages.drain", is_forced=True)
    first = start("worker", "--only", "messages", APP_FAULTS="1", FAULT="provider.after_send:kill:2", LEASE_SECONDS="2")
    interrupted = "SELECT count(*) FROM messages WHERE status = 'sending'"
    wait_until(lambda: len(provider_calls(app)) >= 200 and rows(app, acme.id, interrupted)[0][0] > 0)
    os.killpg(first.pid or 0, signal.SIGKILL)
    other = start("worker", "--queue", "messages:1", LEASE_SECONDS="2", SWEEP_SECONDS="1")
    wait_until(lambda: count_open_messages(app, acme) == 0)
    assert {row.message_id for row in provider_calls(app)} == set(ids)
    [(interruptions,)] = rows(app, acme.id, "SELECT sum(interruptions) FROM messages")
    assert 0 < sum(row.calls - 1 for row in provider_calls(app)) <= interruptions
    assert rows(app, acme.id, "SELECT DISTINCT status FROM messages") == [("delivered",)]
    other.terminate()
    assert forks.wait(other, 30) == 0


def test_scheduler_wakes_workers_runs_jobs_and_stops(
    app: Flask, acme: MessagingOrganization, start: Callable[..., ForkServerProcess]
) -> None:
    scheduler = start("scheduler", SWEEP_SECONDS="1")
    queue_many(app, acme.id, 3)
    start("worker", "--only", "messages")
    wait_until(lambda: count_open_messages(app, acme) == 0)
    wait_until(lambda: count_job_runs(app) > 0)
    listed = app.test_cli_runner().invoke(args=["schedule", "list"])
    assert listed.exit_code == 0
    assert "billing.close" in listed.output
    scheduler.terminate()
    assert forks.wait(scheduler, 10) == 0


def test_scheduler_delivers_by_itself_without_redis(
    app: Flask, acme: MessagingOrganization, start: Callable[..., ForkServerProcess]
) -> None:
    queue_many(app, acme.id, 3)
    start("scheduler", SWEEP_SECONDS="1", REDIS_URL="unix:///nonexistent/redis.sock")
    wait_until(lambda: count_open_messages(app, acme) == 0)


def test_scheduler_exits_in_another_time_zone(start: Callable[..., ForkServerProcess]) -> None:
    assert forks.wait(start("scheduler", TZ="America/New_York"), 20) == 1
