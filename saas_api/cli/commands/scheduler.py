"""The scheduler process; schedule list and run."""

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
from rq_scheduler import Scheduler
from sqlalchemy.exc import DBAPIError

from saas_api.cli import errors, output, types
from saas_api.cli.errors import Command, CommandError, CommandGroup
from saas_api.core import clock
from saas_api.core.jobs import queue, schedule
from saas_api.core.jobs.queue import BACKGROUND
from saas_api.core.jobs.schedule import TICK_FUNCTION, JobRun, ScheduledJob
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting

log = get_logger(__name__)

SCHEDULE_ENTRY_ID = "tick-2"
RETIRED_ENTRY_ID = "tick"  # of a function that has moved: queued, it would fail every minute
MAX_SILENCE_SECONDS = 90
group = CommandGroup("schedule", help="The timetable.")
_ROW = "{:36} {:10} {:26} {:26} {}"


class JobName(click.ParamType):
    """The name of a scheduled job."""

    name = "job"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or fail with the list of names."""
        names = [entry.job for entry in schedule.scheduled_jobs()]
        return str(click.Choice(names).convert(value, param, ctx))


@click.command("scheduler", cls=Command)
@with_appcontext
def scheduler() -> None:
    """Tick every minute and sweep every few seconds, until stopped.

    Example: TZ=UTC flask scheduler
    """
    if time.tzname[0] != "UTC":
        raise CommandError(
            f"TZ must be UTC, not {time.tzname[0]}: rq-scheduler counts in the process's zone. Set TZ=UTC."
        )
    warnings.filterwarnings("ignore", category=FutureWarning, module="rq_scheduler")  # crontab announces what it does
    errors.require_safe_database()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    connection = queue.worker_redis()
    metronome = Scheduler(queue_name=BACKGROUND, connection=connection, interval=setting("SWEEP_SECONDS"))
    log.info("scheduler_started", pid=os.getpid())
    while not stop.is_set():
        run_once(metronome)
        stop.wait(setting("SWEEP_SECONDS"))
    with contextlib.suppress(redis.RedisError):
        metronome.remove_lock()
        metronome.register_death()
    log.info("scheduler_stopped", app=current_app.name)


def run_once(metronome: Scheduler) -> None:
    """One pass; what fails is logged, and the next pass tries again."""
    steps: tuple[Callable[[], None], ...] = (lambda: heartbeat(metronome), schedule.run_sweeps, _run_if_silent)
    for step in steps:
        try:
            step()
        except (redis.RedisError, DBAPIError) as error:
            log.warning("scheduler_step_failed", kind=type(error).__name__)
        except Exception:
            log.exception("scheduler_step_failed")


def heartbeat(metronome: Scheduler) -> None:
    """Show a sign of life, see that the tick is on rq-scheduler's list, and queue it when it is time."""
    connection = metronome.connection
    with connection.pipeline() as pipe:
        pipe.hset(metronome.key, "beat", time.time())
        pipe.expire(metronome.key, 60)
        pipe.execute()
    if SCHEDULE_ENTRY_ID not in metronome:
        metronome.cancel(RETIRED_ENTRY_ID)
        connection.delete(f"rq:job:{RETIRED_ENTRY_ID}")
        metronome.cron(
            "* * * * *", TICK_FUNCTION, id=SCHEDULE_ENTRY_ID, queue_name=BACKGROUND, timeout=60, result_ttl=-1
        )
    if not metronome.acquire_lock():
        return
    try:
        metronome.enqueue_jobs()
    except redis.RedisError:
        raise
    except Exception:
        log.exception("tick_unreadable")
        metronome.cancel(SCHEDULE_ENTRY_ID)
        connection.delete(f"rq:job:{SCHEDULE_ENTRY_ID}")
    finally:
        metronome.remove_lock()


def _run_if_silent() -> None:
    age = schedule.seconds_since_last_run()
    if age is None or age > MAX_SILENCE_SECONDS:
        schedule.run_due_jobs()


@group.command("list")
@types.json_option
def list_jobs(*, as_json: bool) -> None:
    """List jobs with their cadence, last and next run, and outcome.

    Example: flask schedule list
    """
    runs, now = schedule.list_last_runs(), clock.now()
    shown = [_to_json(entry, runs.get(entry.job), now) for entry in schedule.scheduled_jobs()]
    lines = [_ROW.format("job", "cadence", "last run", "next run", "outcome").rstrip()]
    for one in shown:
        outcome = " ".join(filter(None, (one["outcome"], one["error"]))) or "-"
        cadence = f"{one['every_seconds'] // 60} min"
        lines.append(_ROW.format(one["job"], cadence, one["last_run_at"] or "never", one["next_run_at"], outcome))
    output.print_result({"jobs": shown}, lines, as_json=as_json)


@group.command("run")
@click.argument("job", metavar="JOB", type=JobName())
@types.json_option
def run(job: str, *, as_json: bool) -> None:
    """Run a job now, for this very instant as its slot; flask schedule list names the jobs.

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
