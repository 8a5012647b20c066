"""The entry of the schedule in rq-scheduler: there is one, and it names the function of today."""

from collections.abc import Iterator

import pytest
from flask import Flask
from rq_scheduler import Scheduler

from saas_api.cli.commands import scheduler
from saas_api.cli.commands.scheduler import RETIRED_ENTRY_ID, SCHEDULE_ENTRY_ID
from saas_api.core.jobs import queue
from saas_api.core.jobs.queue import BACKGROUND
from saas_api.core.jobs.schedule import TICK_FUNCTION

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:rq_scheduler")  # as the process does


@pytest.fixture
def metronome(context: Flask) -> Iterator[Scheduler]:
    with queue.worker_redis() as connection:
        yield Scheduler(queue_name=BACKGROUND, connection=connection)


def entries(metronome: Scheduler) -> dict[str, str]:
    return {job.id: job.func_name for job in metronome.get_jobs()}


def test_the_entry_is_made_once(metronome: Scheduler) -> None:
    for _ in range(2):
        scheduler.heartbeat(metronome)
    assert entries(metronome) == {SCHEDULE_ENTRY_ID: TICK_FUNCTION}


def test_the_entry_of_an_earlier_version_is_cancelled(metronome: Scheduler) -> None:
    metronome.cron("* * * * *", "saas_api.gone.tick", id=RETIRED_ENTRY_ID, queue_name=BACKGROUND)
    scheduler.heartbeat(metronome)
    assert metronome.connection.zrange(metronome.scheduled_jobs_key, 0, -1) == [SCHEDULE_ENTRY_ID.encode()]
    assert entries(metronome) == {SCHEDULE_ENTRY_ID: TICK_FUNCTION}
    assert not metronome.connection.exists(f"rq:job:{RETIRED_ENTRY_ID}")
