"""What works in the background, at the console: the timetable, queues, failed jobs, and the checks of the books."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
import rq
from flask import Flask
from flask.testing import FlaskClient
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.results import Result

from saas_api.billing import invariants
from saas_api.core import clock
from saas_api.core.jobs import queue, schedule
from saas_api.core.jobs.queue import BACKGROUND
from tests.support.accounts import Person
from tests.support.console import PLATFORM, check_offices, console, log, problem, run
from tests.support.payments import Visitor

JOBS = "/admin/jobs"
PAGES = {
    JOBS: "support",
    f"{JOBS}/tick": "admin",
    f"{JOBS}/run/billing.close": "admin",
    "/admin/invariants": "support",
}


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return Visitor(app, app.response_class)


@pytest.fixture
def connection(app: Flask, config: dict[str, Any]) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(config["REDIS_URL"]) as client:
        yield client


def queued(connection: redis.Redis, call: str) -> list[Job]:
    """Jobs that call a function, by its name."""
    jobs = rq.Queue(BACKGROUND, connection=connection).jobs
    return [job for job in jobs if job is not None and job.func_name == call]


def waiting(connection: redis.Redis) -> list[str]:
    return rq.Queue(BACKGROUND, connection=connection).get_job_ids()


def failure(connection: redis.Redis, announced: str = "mail.drain") -> Job:
    """A job that a worker could not finish."""
    where = rq.Queue(BACKGROUND, connection=connection)
    job = where.enqueue_call(queue.run_job, args=(announced,))
    where.remove(job)
    FailedJobRegistry(where.name, connection=connection).add(job, ttl=3600)
    Result.create_failure(job, 3600, "Traceback\nOSError: broken pipe")
    return job


def test_only_operators_find_the_pages(app: Flask, client: FlaskClient, alice: Person, connection: redis.Redis) -> None:
    retry = f"{JOBS}/failed/{failure(connection).id}/retry"
    check_offices(app, client, alice, {**PAGES, retry: "admin"})


def test_every_job_is_shown_with_cadence_last_and_next_run(app: Flask, client: FlaskClient) -> None:
    run(
        app,
        """INSERT INTO job_runs (job, scheduled_for, host, state, started_at, finished_at, error)
          VALUES ('billing.close', now() - interval '5 h', 'h:1', 'failed', now(), now() + interval '2.5 s',
            'OSError: full')""",
    )
    page = console(app, client, "support").text(JOBS)
    assert all(entry.job in page for entry in schedule.scheduled_jobs())
    assert ("OSError: full" in page, "2.5 s" in page, "Late" in page) == (True, True, True)
    assert page.count("Never ran") == len(schedule.scheduled_jobs()) - 1


def test_a_job_that_ran_in_its_slot_is_not_late(app: Flask, client: FlaskClient) -> None:
    for entry in schedule.scheduled_jobs():
        run(
            app,
            """INSERT INTO job_runs (job, scheduled_for, host, state, finished_at)
              VALUES (:job, :slot, 'h:1', 'done', now())""",
            job=entry.job,
            slot=entry.current_slot(clock.now()),
        )
    assert ">Late<" not in console(app, client).text(JOBS).replace("</span> ", "")


def test_a_poll_gets_the_figures_alone(app: Flask, client: FlaskClient) -> None:
    olga = console(app, client, "support")
    part = olga.open(JOBS, **{"HX-Request": "true", "X-Poll": "1"})
    assert (part.status_code, "<html" in part.text, "Timetable" in part.text) == (200, False, True)


def test_a_dead_redis_is_said_and_the_timetable_still_shown(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    olga = console(app, client)
    monkeypatch.setattr(queue, "worker_redis", lambda: redis.Redis(port=1, socket_connect_timeout=0.1))
    page = olga.text(JOBS)
    assert ("Redis does not answer" in page, "billing.close" in page) == (True, True)
    assert "Redis" in olga.text("/admin/system")


def test_a_run_is_asked_for_and_a_worker_does_it(app: Flask, client: FlaskClient, connection: redis.Redis) -> None:
    page = console(app, client).does(f"{JOBS}/run/ops.purge")
    assert "A worker was asked" in page
    (job,) = queued(connection, "saas_api.core.jobs.schedule.run_scheduled")
    with app.app_context():
        job.perform()
    rows = run(app, "SELECT job, state, host FROM job_runs")
    assert rows == [("ops.purge", "done", "operator console")]
    assert log(app, "job.run_asked") == PLATFORM


def test_a_tick_runs_every_job_that_is_due(app: Flask, client: FlaskClient, connection: redis.Redis) -> None:
    console(app, client).does(f"{JOBS}/tick")
    (job,) = queued(connection, "saas_api.core.jobs.schedule.run_due_jobs")
    with app.app_context():
        job.perform()
    assert {row.job for row in run(app, "SELECT job FROM job_runs")} == {
        entry.job for entry in schedule.scheduled_jobs()
    }
    assert log(app, "job.tick_asked") == PLATFORM


def test_a_job_that_is_on_no_timetable_is_not_run(app: Flask, client: FlaskClient) -> None:
    olga = console(app, client)
    fields = {**olga.form(f"{JOBS}/tick"), "reason": "ticket 4711: a try"}
    assert olga.open(f"{JOBS}/run/os.system").status_code == 404
    assert olga.send(f"{JOBS}/run/os.system", fields).status_code == 404


def test_a_failed_job_is_shown_and_queued_again(app: Flask, client: FlaskClient, connection: redis.Redis) -> None:
    job, olga = failure(connection), console(app, client)
    page = olga.text(JOBS)
    assert ("mail.drain" in page, "OSError: broken pipe" in page) == (True, True)
    path = f"{JOBS}/failed/{job.id}/retry"
    fields = {**olga.form(path), "reason": "ticket 4711: mended"}
    assert olga.send(path, fields).status_code == 303
    assert job.id in waiting(connection)
    assert log(app, "job.retried")[0][:2] == (False, "operator")
    again = olga.send(path, fields)
    assert again.status_code in (404, 409), problem(again)
    assert waiting(connection).count(job.id) == 1


def test_looking_does_not_clean_up(app: Flask, client: FlaskClient, connection: redis.Redis) -> None:
    job = failure(connection)
    registry = FailedJobRegistry(BACKGROUND, connection=connection)
    connection.zadd(registry.key, {job.id: 1})  # its time is over
    console(app, client).text(JOBS)
    assert registry.get_job_count(cleanup=False) == 1


def test_checks_say_what_they_found_since_when_and_whose(app: Flask, client: FlaskClient, alice: Person) -> None:
    olga = console(app, client, "support")
    assert "The checks have not run yet." in olga.text("/admin/invariants")
    with app.app_context():
        invariants.check_invariants()
    assert "Every check holds." in olga.text("/admin/invariants")
    now = clock.now()
    for hours, count in ((3, 0), (2, 1), (1, 2)):
        run(
            app,
            """INSERT INTO invariant_results VALUES ('sums.lines', :at, :count,
              jsonb_build_array(jsonb_build_object('organization_id', CAST(:org AS text),
                'what', 'invoice 7 differs')))""",
            at=now + timedelta(days=1, hours=-hours),
            count=count,
            org=alice.organization_id,
        )
    page = olga.text("/admin/invariants")
    assert ("2 violations" in page, "invoice 7 differs" in page) == (True, True)
    assert f"/admin/organizations/{alice.organization_id}" in page
    assert clock.format_rfc3339(now + timedelta(days=1, hours=-2)) in page
