"""Slots of scheduled jobs: each runs once, and is repeated when the run failed or was killed."""

import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask

from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.jobs import outbox, queue, schedule
from saas_api.core.jobs.outbox import DueOwners

SLOT = datetime(2026, 3, 1, 0, 5, tzinfo=UTC)


class Job:
    """A job that counts its runs, and fails while `is_broken` is set."""

    def __init__(self) -> None:
        self.runs = 0
        self.is_broken = False

    def __call__(self) -> dict[str, int]:
        self.runs += 1
        if self.is_broken:
            raise RuntimeError("broken")
        return {"runs": self.runs}


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Job:
    job = Job()
    monkeypatch.setitem(queue._jobs, "usage.counted", job)
    return job


def run(slot: datetime = SLOT) -> bool:
    return schedule.run_scheduled("usage.counted", slot, "here")


def test_slot_of_a_job_runs_once(context: Flask, job: Job) -> None:
    assert [run(), run(), run(SLOT + timedelta(hours=1))] == [True, False, True]
    assert job.runs == 2
    last = schedule.list_last_runs()["usage.counted"]
    assert (last.state, last.scheduled_for) == ("done", SLOT + timedelta(hours=1))


def test_concurrent_runs_of_a_slot_run_it_once(app: Flask, job: Job) -> None:
    barrier = threading.Barrier(6)

    def run_slot() -> None:
        with app.app_context():
            barrier.wait()
            run()

    threads = [threading.Thread(target=run_slot) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert job.runs == 1


def test_failed_run_is_repeated(context: Flask, job: Job) -> None:
    job.is_broken = True
    assert run()
    assert schedule.list_last_runs()["usage.counted"].error == "RuntimeError: broken"
    job.is_broken = False
    assert run()
    assert schedule.list_last_runs()["usage.counted"].state == "done"


def test_killed_run_is_repeated_when_its_lease_has_ended(context: Flask, job: Job) -> None:
    insert = """INSERT INTO job_runs (job, scheduled_for, host, next_at, lease_token)
        VALUES ('usage.counted', :slot, 'gone', now() + :left, gen_random_uuid())"""
    with tenancy.system_session("queue.runs") as session:
        session.execute(sa.text(insert), {"slot": SLOT, "left": timedelta(minutes=1)})
    assert not run()
    with tenancy.system_session("queue.runs") as session:
        session.execute(sa.text("UPDATE job_runs SET next_at = now()"))
    assert run()
    assert job.runs == 1


def test_newer_slot_supersedes_an_abandoned_run(context: Flask, job: Job) -> None:
    insert = """INSERT INTO job_runs (job, scheduled_for, host, next_at, lease_token)
        VALUES ('usage.counted', :slot, 'gone', now(), gen_random_uuid())"""
    with tenancy.system_session("queue.runs") as session:
        session.execute(sa.text(insert), {"slot": SLOT})
    assert run(SLOT + timedelta(hours=1))
    with tenancy.system_session("queue.runs") as session:
        states = session.execute(sa.text("SELECT state, error FROM job_runs ORDER BY scheduled_for")).all()
    assert states == [("failed", "superseded"), ("done", None)]


def test_failure_of_one_owner_does_not_stop_the_drain_of_others(
    context: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, other = ids.new_id(), ids.new_id()
    unprocessed = {failing, other}

    def process(organization_id: UUID) -> None:
        if organization_id == failing:
            raise RuntimeError("This owner fails.")
        unprocessed.discard(organization_id)

    outbox.drain_queue("messages.drain", lambda: DueOwners(sorted(unprocessed), None), process, at_most_seconds=5)
    assert unprocessed == {failing}
