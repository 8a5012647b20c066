"""`flask scheduler`, the process that starts scheduled jobs, and `flask schedule`, which lists and runs them."""

import contextlib
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click
import redis
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy.exc import DBAPIError

from saas_api.cli import errors, output, types
from saas_api.cli.errors import Command, CommandError, CommandGroup
from saas_api.core import clock
from saas_api.core.jobs import queue, schedule
from saas_api.core.jobs.queue import BACKGROUND
from saas_api.core.jobs.redis_jobs import RedisScheduler
from saas_api.core.jobs.schedule import JobRun, ScheduledJob
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting

log = get_logger(__name__)

SCHEDULE_ENTRY_ID = "tick-3"
RETIRED_ENTRY_ID = "tick-2"  # entry of the version before: its job is pickled
MAX_SECONDS_WITHOUT_RUN = 90
group = CommandGroup("schedule", help="Scheduled jobs.")
_ROW = "{:36} {:10} {:26} {:26} {}"


class JobName(click.ParamType):
    """Name of a scheduled job."""

    name = "job"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = [entry.job for entry in schedule.scheduled_jobs()]
        return str(click.Choice(names).convert(value, param, ctx))


@click.command("scheduler", cls=Command)
@with_appcontext
def scheduler() -> None:
    """Run the scheduler: start jobs every minute and look for due work every few seconds, until stopped.

    Example: TZ=UTC flask scheduler
    """
    if time.tzname[0] != "UTC":
        raise CommandError(
            f"TZ must be UTC, not {time.tzname[0]}: rq-scheduler counts in the process's zone. Set TZ=UTC."
        )
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module="rq_scheduler"
    )  # crontab announces its future default
    errors.require_safe_database()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    connection = queue.worker_redis()
    rq_scheduler = RedisScheduler(queue_name=BACKGROUND, connection=connection, interval=setting("SWEEP_SECONDS"))
    log.info("scheduler_started", pid=os.getpid())
    while not stop.is_set():
        run_once(rq_scheduler)
        stop.wait(setting("SWEEP_SECONDS"))
    with contextlib.suppress(redis.RedisError):
        rq_scheduler.remove_lock()
        rq_scheduler.register_death()
    log.info("scheduler_stopped", app=current_app.name)


def run_once(rq_scheduler: RedisScheduler) -> None:
    """One pass of the process; a failed step is logged, and the next pass repeats it."""
    steps: tuple[Callable[[], None], ...] = (lambda: heartbeat(rq_scheduler), schedule.run_sweeps, _run_overdue_jobs)
    for step in steps:
        try:
            step()
        except (redis.RedisError, DBAPIError) as error:
            log.warning("scheduler_step_failed", kind=type(error).__name__)
        except Exception:
            log.exception("scheduler_step_failed")


def heartbeat(rq_scheduler: RedisScheduler) -> None:
    """Record that the process is alive, make sure that the entry exists, and queue its job when it is due."""
    connection = rq_scheduler.connection
    with connection.pipeline() as pipe:
        pipe.hset(rq_scheduler.key, "beat", time.time())
        pipe.expire(rq_scheduler.key, 60)
        pipe.execute()
    if SCHEDULE_ENTRY_ID not in rq_scheduler:
        rq_scheduler.cancel(RETIRED_ENTRY_ID)
        connection.delete(f"rq:job:{RETIRED_ENTRY_ID}")
        rq_scheduler.cron(
            "* * * * *",
            schedule.run_due_jobs,
            id=SCHEDULE_ENTRY_ID,
            queue_name=BACKGROUND,
            timeout=60,
            result_ttl=-1,
        )
    if not rq_scheduler.acquire_lock():
        return
    try:
        rq_scheduler.enqueue_jobs()
    except redis.RedisError:
        raise
    except Exception:
        log.exception("tick_unreadable")
        rq_scheduler.cancel(SCHEDULE_ENTRY_ID)
        connection.delete(f"rq:job:{SCHEDULE_ENTRY_ID}")
    finally:
        rq_scheduler.remove_lock()


def _run_overdue_jobs() -> None:
    """Run due jobs in this process when no worker has begun one for a while."""
    age = schedule.seconds_since_last_run()
    if age is None or age > MAX_SECONDS_WITHOUT_RUN:
        schedule.run_due_jobs()


@group.command("list")
@types.json_option
def list_jobs(*, as_json: bool) -> None:
    """List jobs with their schedule, last run, next run and outcome.

    Example: flask schedule list
    """
    runs, now = schedule.list_last_runs(), clock.now()
    items = [_to_json(entry, runs.get(entry.job), now) for entry in schedule.scheduled_jobs()]
    lines = [_ROW.format("job", "cadence", "last run", "next run", "outcome").rstrip()]
    for item in items:
        outcome = " ".join(filter(None, (item["outcome"], item["error"]))) or "-"
        cadence = f"{item['every_seconds'] // 60} min"
        lines.append(_ROW.format(item["job"], cadence, item["last_run_at"] or "never", item["next_run_at"], outcome))
    output.print_result({"jobs": items}, lines, as_json=as_json)


@group.command("run")
@click.argument("job", metavar="JOB", type=JobName())
@types.json_option
def run(job: str, *, as_json: bool) -> None:
    """Run a scheduled job now; flask schedule list shows their names.

    Example: flask schedule run billing.close
    """
    host = f"{socket.gethostname()}:{os.getpid()}"
    slot = clock.now()
    schedule.run_scheduled(job, slot, host)
    outcome = schedule.list_last_runs()[job]
    output.record_audit("job.ran", ("job", job), {"slot": clock.format_rfc3339(slot), "outcome": outcome.state})
    line = f"{job}: {outcome.state}" + (f" ({outcome.error})" if outcome.error else "")
    output.print_result({"job": job, "outcome": outcome.state, "error": outcome.error}, [line], as_json=as_json)
    if outcome.state == "failed":
        raise CommandError(f"{job} failed; the log above says why. Run it again then.")


def _to_json(entry: ScheduledJob, run: JobRun | None, now: datetime) -> dict[str, Any]:
    return {
        "job": entry.job,
        "every_seconds": entry.every_seconds,
        "description": entry.description,
        "last_run_at": clock.format_rfc3339(run.scheduled_for) if run else None,
        "next_run_at": clock.format_rfc3339(entry.next_slot(now)),
        "outcome": run.state if run else None,
        "error": run.error if run else None,
    }
