"""What operators ask of the queues: a job of the timetable now, the whole timetable, a failed wake-up once more."""

from contextlib import closing
from typing import Any

import redis
import rq
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job
from rq.registry import FailedJobRegistry
from sqlalchemy.orm import Session

from saas_api.core import clock, lease, queue
from saas_api.core.errors import Conflict, NotFound, Unavailable
from saas_api.organizations.service import audit

TICK = "saas_api.schedule.tick"  # by name: the timetable stands above this face
RUN_SECONDS = 600


def ask_for_run(session: Session, actor: audit.Actor, job: str, reason: str) -> None:
    """Let a worker run a job of the timetable now, with this very instant as its slot.

    raises: Unavailable when Redis does not answer
    """
    audit.record(session, None, actor, "job.run_asked", ("job", job), {"reason": reason})
    _push(lease.run_slot, job, clock.now(), "operator console")


def ask_for_tick(session: Session, actor: audit.Actor, reason: str) -> None:
    """Let a worker run every job whose slot nobody took.

    raises: Unavailable when Redis does not answer
    """
    audit.record(session, None, actor, "job.tick_asked", ("job", "tick"), {"reason": reason})
    _push(TICK)


def retry(session: Session, actor: audit.Actor, job_id: str, reason: str) -> None:
    """Queue a failed wake-up once more.

    raises: NotFound, Conflict when it is not failed any more, Unavailable when Redis does not answer
    """
    audit.record(session, None, actor, "job.retried", ("job", job_id), {"reason": reason})
    with closing(queue.patient_client()) as connection:
        try:
            job = Job.fetch(job_id, connection=connection)
            FailedJobRegistry(job.origin, connection=connection).requeue(job)
        except NoSuchJobError as cause:
            raise NotFound from cause
        except InvalidJobOperation as cause:
            raise Conflict("This job is not failed any more.") from cause
        except redis.RedisError as cause:
            raise Unavailable from cause


def _push(call: Any, *arguments: Any) -> None:
    with closing(queue.patient_client()) as connection:
        try:
            rq.Queue(queue.BACKGROUND, connection=connection).enqueue_call(
                call, args=arguments, timeout=RUN_SECONDS, result_ttl=0, failure_ttl=queue.KEPT_FAILURE_SECONDS
            )
        except redis.RedisError as cause:
            raise Unavailable from cause
