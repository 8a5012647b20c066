"""Whether time is told alike everywhere, and whether somebody does the work: clocks, zones, scheduler, workers."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from rq import Worker
from rq_scheduler import Scheduler
from sqlalchemy.exc import SQLAlchemyError

from saas_api.cli.about.findings import FAIL, OK, WARN, Finding, judged
from saas_api.cli.about.storage import zone_data
from saas_api.core import clock, lease, queue
from saas_api.core.db import db
from saas_api.core.tenancy import as_system

APART_SECONDS, TOO_FAR_APART_SECONDS = 2.0, 30.0
SILENCE_SECONDS = 180.0
_MONTHS_AHEAD = 24
_LOCAL = sa.text("""SELECT z, t, t AT TIME ZONE z FROM unnest(CAST(:zones AS text[])) z,
  unnest(CAST(:times AS timestamptz[])) t""")


def clocks() -> Finding:
    """Whether this machine and PostgreSQL tell the same time."""
    before = time.time()
    with db.engine.connect() as connection:
        theirs = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one().timestamp()
    apart = abs((before + time.time()) / 2 - theirs)
    wrong = f"this machine and PostgreSQL are {apart:.1f} s apart"
    remedy = "Let both follow NTP; leases and periods are counted by either."
    return judged(
        "clock",
        f"{apart:.1f} s apart from PostgreSQL",
        (apart > TOO_FAR_APART_SECONDS, FAIL, wrong, remedy),
        (apart > APART_SECONDS, WARN, wrong, remedy),
    )


def zones() -> Finding:
    """Whether PostgreSQL and Python agree when months begin, in every zone that an organization has."""
    with as_system("cli.zones") as session:
        named = sorted({"UTC", *session.scalars(sa.text("SELECT DISTINCT timezone FROM organizations"))})
        times = [datetime.now(UTC) + timedelta(days=30 * month) for month in range(_MONTHS_AHEAD)]
        try:
            rows = session.execute(_LOCAL, {"zones": named, "times": times}).all()
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
            return Finding("zone data", FAIL, f"PostgreSQL: {reason}", "Bring PostgreSQL's zone data up to date.")
    odd = sorted({name for name, at, local in rows if at.astimezone(clock.zone(name)).replace(tzinfo=None) != local})
    wrong = f"PostgreSQL and tzdata {zone_data()} disagree about {', '.join(odd)}"
    remedy = "Bring PostgreSQL's zone data and the package tzdata up to date."
    return judged("zone data", f"tzdata {zone_data()}, zones: {len(named)}", (bool(odd), FAIL, wrong, remedy))


def scheduler() -> Finding:
    """Whether a scheduler beats, and jobs begin."""
    with queue.patient_client() as client:
        beating = sum(1 for _ in client.scan_iter(f"{Scheduler.redis_scheduler_namespace_prefix}*"))
    silence = lease.seconds_since_last_run()
    last = "no job has ever run" if silence is None else f"the last job began {silence:.0f} s ago"
    is_silent = silence is None or silence > SILENCE_SECONDS
    return judged(
        "scheduler",
        last,
        (not beating, FAIL, f"none is running; {last}", "Start flask scheduler; make run does."),
        (is_silent, WARN, last, "Look at the logs of flask scheduler and flask worker."),
    )


def workers() -> Iterator[Finding]:
    """Whether somebody works on every queue."""
    with queue.patient_client() as client:
        served = [name for worker in Worker.all(connection=client) for name in worker.queue_names()]
    for name in queue.queue_names():
        if name in served:
            yield Finding(f"queue {name}", OK, f"workers: {served.count(name)}")
        else:
            yield Finding(f"queue {name}", FAIL, "nobody works on it", "Start flask worker; make run does.")
