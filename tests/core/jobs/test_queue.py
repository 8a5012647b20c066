"""Wake-ups: sent after the commit and once; a Redis failure never reaches the caller."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from flask import Flask

from saas_api.core.db import tenancy
from saas_api.core.jobs import queue, schedule
from saas_api.core.jobs.outbox import DueOwners
from saas_api.core.jobs.redis_jobs import RedisQueue
from saas_api.core.jobs.schedule import drain, scheduled
from saas_api.core.limits import direct_connections
from tests.support.redis_outage import NO_REDIS, HungRedis, run_hung_redis


@pytest.fixture(autouse=True)
def forget_wake_ups() -> Iterator[None]:
    queue._last_wake_at.clear()
    yield
    queue._last_wake_at.clear()


def count_queued(name: str = "messages") -> int:
    connection = queue.worker_redis()
    job_ids = RedisQueue(name, connection).get_job_ids()
    connection.close()
    return len(job_ids)


def test_many_wake_ups_become_one_queue_entry(context: Flask) -> None:
    for _ in range(20):
        queue.wake_workers("messages.drain")
    assert count_queued() == 1


def test_wake_up_after_the_start_of_a_drain_is_sent(context: Flask) -> None:
    queue.wake_workers("messages.drain")
    queue._last_wake_at.clear()
    queue.allow_next_wake("messages.drain")
    queue.wake_workers("messages.drain")
    assert count_queued() == 2


def test_forced_wake_up_is_always_sent(context: Flask) -> None:
    queue.wake_workers("messages.drain")
    assert queue.wake_workers("messages.drain", is_forced=True)
    assert count_queued() == 2


def test_job_is_enqueued_after_the_commit(context: Flask) -> None:
    with tenancy.tenant_session(uuid4()) as session:
        session.connection()
        queue.enqueue(session, "messages.drain")
        assert count_queued() == 0
    assert count_queued() == 1


def test_rollback_drops_an_enqueued_job(context: Flask) -> None:
    def fail() -> None:
        with tenancy.tenant_session(uuid4()) as session:
            session.connection()
            queue.enqueue(session, "messages.drain")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert count_queued() == 0


def test_scheduled_jobs_run_on_the_background_queue() -> None:
    assert queue.queue_for_job("messages.drain") == "messages"
    assert queue.queue_for_job("billing.close") == "background"


def test_every_scheduled_job_runs(context: Flask) -> None:
    for entry in schedule.scheduled_jobs():
        queue.run_job(entry.job)


@pytest.mark.parametrize("name", ["usage.nothing", "nothing.drain", "roll_up", "", "usage.jobs.roll_up"])
def test_unknown_job_name_is_rejected(context: Flask, name: str) -> None:
    with pytest.raises(LookupError, match="There is no job"):
        queue.run_job(name)


def test_job_name_is_registered_once(context: Flask) -> None:
    with pytest.raises(ValueError, match=r"usage\.roll_up is registered already"):
        scheduled("usage.roll_up", every=60, description="Another one.")(lambda: None)
    with pytest.raises(ValueError, match=r"mail\.drain is registered already"):
        drain("mail.drain", due=lambda: DueOwners([], None))(lambda *, at_most_seconds=None: None)
    assert all(entry.description != "Another one." for entry in schedule.scheduled_jobs())


def test_drain_of_an_undeclared_queue_is_rejected() -> None:
    with pytest.raises(ValueError, match="No domain declares the queue parcels"):
        drain("parcels.drain", queue="parcels", due=lambda: DueOwners([], None))(lambda *, at_most_seconds=None: None)
    with pytest.raises(LookupError):
        queue.run_job("parcels.drain")


def test_scheduled_job_runs_after_the_job_it_follows(app: Flask) -> None:
    names = [entry.job for entry in schedule.scheduled_jobs()]
    assert names.index("usage.roll_up") < names.index("billing.alerts")
    assert names.index("payments.inbox") < names.index("payments.dunning")


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[HungRedis]:
    """A Redis that takes connections and never answers."""
    with run_hung_redis(tmp_path) as redis_server:
        yield redis_server


@pytest.mark.parametrize("is_hung", [True, False])
def test_wake_up_without_redis_does_not_raise_and_seldom_asks(
    context: Flask, hung: HungRedis, monkeypatch: pytest.MonkeyPatch, is_hung: bool
) -> None:
    pool = direct_connections.low_latency_pool(hung.url if is_hung else NO_REDIS)
    monkeypatch.setitem(context.extensions, "redis", redis.Redis(connection_pool=pool))
    try:
        for _ in range(20):
            assert not queue.wake_workers("messages.drain", is_forced=True)
        assert hung.count_connections() < 20  # the breaker opens after three; each that asks waits for 50 ms
    finally:
        pool.disconnect()
