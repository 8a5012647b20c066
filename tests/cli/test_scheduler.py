"""The entry of the schedule in rq-scheduler."""

from collections.abc import Iterator

import pytest
from flask import Flask

from saas_api.cli.commands import scheduler
from saas_api.cli.commands.scheduler import RETIRED_ENTRY_ID, SCHEDULE_ENTRY_ID
from saas_api.core.jobs import queue
from saas_api.core.jobs.queue import BACKGROUND
from saas_api.core.jobs.redis_jobs import RedisScheduler

RUN_DUE_JOBS = "saas_api.core.jobs.schedule.run_due_jobs"
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:rq_scheduler")  # as the process does


@pytest.fixture
def rq_scheduler(context: Flask) -> Iterator[RedisScheduler]:
    with queue.worker_redis() as connection:
        yield RedisScheduler(queue_name=BACKGROUND, connection=connection)


def entries(rq_scheduler: RedisScheduler) -> dict[str, str]:
    return {job.id: job.func_name for job in rq_scheduler.get_jobs()}


def test_schedule_entry_is_created_once(rq_scheduler: RedisScheduler) -> None:
    for _ in range(2):
        scheduler.heartbeat(rq_scheduler)
    assert entries(rq_scheduler) == {SCHEDULE_ENTRY_ID: RUN_DUE_JOBS}


def test_entry_of_an_earlier_version_is_canceled(rq_scheduler: RedisScheduler) -> None:
    rq_scheduler.cron("* * * * *", "saas_api.gone.tick", id=RETIRED_ENTRY_ID, queue_name=BACKGROUND)
    scheduler.heartbeat(rq_scheduler)
    assert rq_scheduler.connection.zrange(rq_scheduler.scheduled_jobs_key, 0, -1) == [SCHEDULE_ENTRY_ID.encode()]
    assert entries(rq_scheduler) == {SCHEDULE_ENTRY_ID: RUN_DUE_JOBS}
    assert not rq_scheduler.connection.exists(f"rq:job:{RETIRED_ENTRY_ID}")
