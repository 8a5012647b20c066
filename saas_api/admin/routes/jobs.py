"""What works in the background: queues, workers, the timetable, and the checks of the books."""

from datetime import datetime
from typing import Any

import redis
from flask import Blueprint, Response, g

from saas_api.admin.queries.operations import queues, runs
from saas_api.admin.queries.reading import reading
from saas_api.admin.schemas import lists
from saas_api.admin.service import acting, ask_for_run, ask_for_tick, retry
from saas_api.admin.service import operator as acts_as
from saas_api.core import clock
from saas_api.core.access import operator
from saas_api.core.errors import NotFound, Unavailable
from saas_api.core.render import Form, page, see_other, submits
from saas_api.core.timetable import Entry, scheduled_jobs

bp = Blueprint("jobs", __name__, url_prefix="/admin")
bp.context_processor(lambda: {"cadence": _cadence, "seconds_ago": _seconds_ago})
_ASKED = "A worker was asked to run it; the result appears below when it is done."


@bp.get("/jobs")
@operator("support")
def index() -> Response:
    """Queues, workers, signs of life, the timetable and failed jobs."""
    now = clock.now()
    with reading() as session:
        slots, waiting = runs.timetable(session, now), runs.waiting(session)
    shown: dict[str, Any] = {"slots": slots, "waiting": waiting, "seen": queues.look(), "now": now}
    return page("admin/jobs/index.html", block="live", **shown)


@bp.get("/jobs/tick")
@operator("admin")
def tick_form(form: Form | None = None) -> Response:
    """What a tick does, before it is asked for."""
    return page("admin/jobs/run.html", entry=None, form=form or Form())


@bp.post("/jobs/tick")
@operator("admin")
@submits(lists.ReasonForm(), again=tick_form, is_fresh=True)
def tick(body: dict[str, str]) -> Response:
    """Ask for a tick."""
    with acting() as session:
        ask_for_tick(session, acts_as(g.principal), body["reason"])
    return see_other("admin.jobs.index", _notice=_ASKED)


@bp.get("/jobs/run/<job>")
@operator("admin")
def run_form(job: str, form: Form | None = None) -> Response:
    """What a job is for, before it is asked for."""
    entry = next((entry for entry in scheduled_jobs() if entry.job == job), None)
    if entry is None:
        raise NotFound
    return page("admin/jobs/run.html", entry=entry, form=form or Form())


@bp.post("/jobs/run/<job>")
@operator("admin")
@submits(lists.ReasonForm(), again=run_form, is_fresh=True)
def run(job: str, body: dict[str, str]) -> Response:
    """Ask for a run of one job."""
    if job not in {entry.job for entry in scheduled_jobs()}:
        raise NotFound
    with acting() as session:
        ask_for_run(session, acts_as(g.principal), job, body["reason"])
    return see_other("admin.jobs.index", _notice=_ASKED)


@bp.get("/jobs/failed/<job_id>/retry")
@operator("admin")
def retry_form(job_id: str, form: Form | None = None) -> Response:
    """A failed job, before it is queued again."""
    try:
        failed = queues.find_failed(job_id)
    except redis.RedisError as cause:
        raise Unavailable from cause
    if failed is None:
        raise NotFound
    return page("admin/jobs/retry.html", failed=failed, form=form or Form())


@bp.post("/jobs/failed/<job_id>/retry")
@operator("admin")
@submits(lists.ReasonForm(), again=retry_form, is_fresh=True)
def retry_failed(job_id: str, body: dict[str, str]) -> Response:
    """Queue a failed job again."""
    with acting() as session:
        retry(session, acts_as(g.principal), job_id, body["reason"])
    return see_other("admin.jobs.index", _notice="The job is queued again.")


@bp.get("/invariants")
@operator("support")
def invariants() -> Response:
    """The checks of the books: what the last run found, since when, and whose."""
    with reading() as session:
        checks = runs.checks(session)
    return page("admin/invariants.html", checks=checks)


def _seconds_ago(instant: datetime) -> str:
    """How long ago something was, short, for a page that looks again and again."""
    seconds = max(0, int((clock.now() - instant).total_seconds()))
    return f"{seconds} s ago" if seconds < 600 else f"{seconds // 60:,} min ago"


def _cadence(entry: Entry) -> str:
    """How often a job runs, for people."""
    for seconds, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        count, rest = divmod(entry.every_seconds, seconds)
        if count and not rest:
            return unit if count == 1 else f"{count} {unit}s"
    return f"{entry.every_seconds} seconds"
