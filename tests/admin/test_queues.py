"""Background work at the console: schedule, queues, failed jobs and invariants."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.results import Result

from saas_api.billing import invariants
from saas_api.core import clock
from saas_api.core.jobs import queue, schedule
from saas_api.core.jobs.queue import BACKGROUND
from saas_api.core.jobs.redis_jobs import RedisQueue
from tests.support.accounts import User
from tests.support.console import (
    IN_PLATFORM_LOG,
    audit_log,
    check_operator_access,
    error_summary,
    execute_sql,
    sign_in_operator,
)
from tests.support.payments import IsolatedClient
from tests.support.redis_outage import without_redis  # noqa: F401 - a fixture

JOBS = "/admin/jobs"
PAGES = {
    JOBS: "support",
    f"{JOBS}/tick": "admin",
    f"{JOBS}/failed/retry": "admin",
    f"{JOBS}/run/billing.close": "admin",
    "/admin/invariants": "support",
}


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return IsolatedClient(app, app.response_class)


@pytest.fixture
def connection(app: Flask, config: dict[str, Any]) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(config["REDIS_URL"]) as client:
        yield client


def queued(connection: redis.Redis, call: str) -> list[Job]:
    """Jobs that call a function, by its name."""
    jobs = RedisQueue(BACKGROUND, connection).jobs
    return [job for job in jobs if job is not None and job.func_name == call]


def waiting(connection: redis.Redis) -> list[str]:
    return RedisQueue(BACKGROUND, connection).get_job_ids()


def make_failed_job(connection: redis.Redis, announced: str = "mail.drain") -> Job:
    """Enqueue a job and mark it failed."""
    background = RedisQueue(BACKGROUND, connection)
    job = background.enqueue_call(queue.run_job, args=(announced,))
    background.remove(job)
    FailedJobRegistry(background.name, connection=connection).add(job, ttl=3600)
    Result.create_failure(job, 3600, "Traceback\nOSError: broken pipe")
    return job


def test_pages_require_an_operator_role(app: Flask, client: FlaskClient, alice: User, connection: redis.Redis) -> None:
    retry = f"{JOBS}/failed/{make_failed_job(connection).id}/retry"
    check_operator_access(app, client, alice, {**PAGES, retry: "admin"})


def test_jobs_are_shown_with_interval_last_and_next_run(app: Flask, client: FlaskClient) -> None:
    execute_sql(
        app,
        """INSERT INTO job_runs (job, scheduled_for, host, state, started_at, finished_at, error)
          VALUES ('billing.close', now() - interval '5 h', 'h:1', 'failed', now(), now() + interval '2.5 s',
            'OSError: full')""",
    )
    page = sign_in_operator(app, client, "support").read(JOBS)
    assert all(entry.job in page for entry in schedule.scheduled_jobs())
    assert ("OSError: full" in page, "2.5 s" in page, "Late" in page) == (True, True, True)
    assert page.count("Not run yet") == len(schedule.scheduled_jobs()) - 1


def test_job_that_ran_on_schedule_is_not_late(app: Flask, client: FlaskClient) -> None:
    for entry in schedule.scheduled_jobs():
        execute_sql(
            app,
            """INSERT INTO job_runs (job, scheduled_for, host, state, finished_at)
              VALUES (:job, :slot, 'h:1', 'done', now())""",
            job=entry.job,
            slot=entry.current_slot(clock.now()),
        )
    assert ">Late<" not in sign_in_operator(app, client).read(JOBS).replace("</span> ", "")


def test_poll_returns_the_live_block_only(app: Flask, client: FlaskClient) -> None:
    olga = sign_in_operator(app, client, "support")
    part = olga.open(JOBS, **{"HX-Request": "true", "X-Poll": "1"})
    assert (part.status_code, "<html" in part.text, "Schedule" in part.text) == (200, False, True)


@pytest.mark.usefixtures("without_redis")
def test_schedule_is_shown_when_redis_does_not_answer(app: Flask, client: FlaskClient) -> None:
    olga = sign_in_operator(app, client)
    page = olga.read(JOBS)
    assert ("Redis is unavailable" in page, "billing.close" in page) == (True, True)
    assert "Redis" in olga.read("/admin/system")


def test_worker_runs_a_job_that_an_operator_queued(app: Flask, client: FlaskClient, connection: redis.Redis) -> None:
    page = sign_in_operator(app, client).run_action(f"{JOBS}/run/ops.purge")
    assert "Job queued." in page
    (job,) = queued(connection, "saas_api.core.jobs.schedule.run_requested")
    with app.app_context():
        job.perform()
    rows = execute_sql(app, "SELECT job, state, host FROM job_runs")
    assert rows == [("ops.purge", "done", "operator console")]
    assert audit_log(app, "job.run_asked") == IN_PLATFORM_LOG


def test_schedule_run_by_an_operator_runs_every_due_job(
    app: Flask, client: FlaskClient, connection: redis.Redis
) -> None:
    sign_in_operator(app, client).run_action(f"{JOBS}/tick")
    (job,) = queued(connection, "saas_api.core.jobs.schedule.run_due_jobs")
    with app.app_context():
        job.perform()
    assert {row.job for row in execute_sql(app, "SELECT job FROM job_runs")} == {
        entry.job for entry in schedule.scheduled_jobs()
    }
    assert audit_log(app, "job.tick_asked") == IN_PLATFORM_LOG


def test_unscheduled_job_cannot_be_run(app: Flask, client: FlaskClient) -> None:
    olga = sign_in_operator(app, client)
    fields = {**olga.form(f"{JOBS}/tick"), "reason": "ticket 4711: a try"}
    assert olga.open(f"{JOBS}/run/os.system").status_code == 404
    assert olga.send(f"{JOBS}/run/os.system", fields).status_code == 404


def test_failed_job_is_shown_and_queued_again(app: Flask, client: FlaskClient, connection: redis.Redis) -> None:
    job, olga = make_failed_job(connection), sign_in_operator(app, client)
    page = olga.read(JOBS)
    assert ("mail.drain" in page, "OSError: broken pipe" in page) == (True, True)
    path = f"{JOBS}/failed/{job.id}/retry"
    fields = {**olga.form(path), "reason": "ticket 4711: mended"}
    assert olga.send(path, fields).status_code == 303
    assert job.id in waiting(connection)
    assert audit_log(app, "job.retried")[0][:2] == ("platform", "operator")
    again = olga.send(path, fields)
    assert again.status_code in (404, 409), error_summary(again)
    assert waiting(connection).count(job.id) == 1


def test_all_failed_jobs_are_queued_again(app: Flask, client: FlaskClient, connection: redis.Redis) -> None:
    jobs, olga = [make_failed_job(connection).id for _ in range(3)], sign_in_operator(app, client)
    connection.delete(Job.key_for(jobs[0]))  # Redis forgot it, and its registry did not
    assert f"{JOBS}/failed/retry" in olga.read(JOBS)
    assert "2 jobs queued again." in olga.run_action(f"{JOBS}/failed/retry")
    assert [waiting(connection).count(job) for job in jobs] == [0, 1, 1]
    assert audit_log(app, "job.retried") == IN_PLATFORM_LOG * 2
    assert "0 jobs queued again." in olga.run_action(f"{JOBS}/failed/retry")


def test_jobs_page_does_not_clean_up_registries(app: Flask, client: FlaskClient, connection: redis.Redis) -> None:
    job = make_failed_job(connection)
    registry = FailedJobRegistry(BACKGROUND, connection=connection)
    connection.zadd(registry.key, {job.id: 1})  # its time is over
    sign_in_operator(app, client).read(JOBS)
    assert registry.get_job_count(cleanup=False) == 1


def test_invariants_show_violations_with_time_and_organization(app: Flask, client: FlaskClient, alice: User) -> None:
    olga = sign_in_operator(app, client, "support")
    assert "The checks have not run yet." in olga.read("/admin/invariants")
    with app.app_context():
        invariants.check_invariants()
    assert "All checks passed." in olga.read("/admin/invariants")
    now = clock.now()
    for hours, count in ((3, 0), (2, 1), (1, 2)):
        execute_sql(
            app,
            """INSERT INTO invariant_results VALUES ('sums.lines', :at, :count,
              jsonb_build_array(jsonb_build_object('organization_id', CAST(:org AS text),
                'what', 'invoice 7 differs')))""",
            at=now + timedelta(days=1, hours=-hours),
            count=count,
            org=alice.organization_id,
        )
    page = olga.read("/admin/invariants")
    assert ("2 violations" in page, "invoice 7 differs" in page) == (True, True)
    assert f"/admin/organizations/{alice.organization_id}" in page
    assert clock.format_rfc3339(now + timedelta(days=1, hours=-2)) in page
