"""`flask doctor`: what works is ok, what does not has a remedy, and nothing is changed by looking."""

import json
import shutil
from typing import Any, NamedTuple

import pytest
import redis
import sqlalchemy as sa
from flask import Flask

from saas_api.cli.commands import doctor
from saas_api.cli.commands.doctor import FAIL, OK, WARN, Finding
from saas_api.core.db import tenancy
from saas_api.core.db.engine import db
from saas_api.core.jobs import schedule


def examine(app: Flask, *options: str) -> tuple[int, dict[str, Any]]:
    done = app.test_cli_runner().invoke(args=["doctor", "--json", *options])
    found = json.loads(done.stdout)
    return done.exit_code, {finding["name"]: finding for finding in found["findings"]}


def test_the_engines_of_the_tests_are_well_and_nobody_works(app: Flask) -> None:
    code, found = examine(app)
    well = {name for name, finding in found.items() if finding["state"] == OK}
    assert well >= {"settings", "PostgreSQL", "roles", "migrations", "clock", "zone data"}
    assert found["scheduler"]["state"] == FAIL
    assert found["queue messages"]["remedy"] == "Start flask worker; make run does."
    assert code == 3


def test_it_reads_well_on_a_terminal(app: Flask) -> None:
    lines = app.test_cli_runner().invoke(args=["doctor"]).output.splitlines()
    at = lines.index("fail  queue messages: nobody works on it")
    assert lines[at + 1] == "      Start flask worker; make run does."


def test_tables_of_another_revision_are_a_failure(app: Flask) -> None:
    with app.app_context(), db.engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL ROLE NONE"))
        before = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'older'"))
    try:
        code, found = examine(app)
    finally:
        with app.app_context(), db.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL ROLE NONE"))
            connection.execute(sa.text("UPDATE alembic_version SET version_num = :v"), {"v": before})
    assert (code, found["migrations"]["remedy"]) == (3, "Run flask db upgrade.")
    assert "scheduler" not in found


def test_engines_that_are_away_are_failures_and_no_traceback(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(context.config, "REDIS_URL", "redis://127.0.0.1:1/0")
    away = sa.create_engine("postgresql+psycopg2://saas@127.0.0.1:1/saas")

    class Away:
        engine = away

    monkeypatch.setattr(doctor, "db", Away)
    for finding in (doctor.check_redis(), doctor.check_postgres()):
        assert finding.state == FAIL
        assert finding.remedy.startswith("make run starts it here")


def test_clocks_that_are_apart_are_told(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.time.time
    for seconds, state in ((0, OK), (10, WARN), (100, FAIL)):
        monkeypatch.setattr(doctor.time, "time", lambda by=seconds: real() + by)
        assert doctor.check_clocks().state == state


def test_a_zone_only_one_side_knows_is_told(context: Flask, alice: Any) -> None:
    with tenancy.system_session("cli.zones") as session:
        session.execute(sa.text("UPDATE organizations SET timezone = 'Mars/Olympus'"))
    found = doctor.check_time_zones()
    assert (found.name, found.state) == ("zone data", FAIL)
    assert "Mars/Olympus" in found.what


def test_a_scheduler_that_beats_and_ran_jobs_is_well(context: Flask) -> None:
    schedule.run_scheduled("usage.roll_up", doctor.datetime.now(doctor.UTC), "test")
    with redis.Redis.from_url(context.config["REDIS_URL"]) as client:
        client.hset(f"{doctor.Scheduler.redis_scheduler_namespace_prefix}one", "beat", 1)
    assert doctor.check_scheduler().state == OK


class Usage(NamedTuple):
    free: int


@pytest.mark.parametrize(("free", "state"), [(10**8, FAIL), (5 * 10**8, WARN), (10**12, OK)])
def test_a_disk_that_fills_up_is_told_in_time(
    context: Flask, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(free))
    assert {finding.state for finding in doctor.check_disk()} == {state}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, "is not encrypted"),
        ({"APP_URL": "https://api.example"}, "mail reaches nobody"),
        ({"APP_URL": "https://api.example", "SMTP_HOST": "mail.example"}, "nobody can pay"),
    ],
)
def test_a_place_of_production_is_held_to_more(
    context: Flask, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], part: str
) -> None:
    for name, value in {"APP_ENV": "production", **changes}.items():
        monkeypatch.setitem(context.config, name, value)
    [found] = doctor.check_settings()
    assert (found.state, part in found.what) == (WARN, True)


def test_a_production_that_lacks_nothing_is_well(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {"APP_URL": "https://api.example", "SMTP_HOST": "mail.example", "STRIPE_SECRET_KEY": "sk_x"}
    for name, value in {"APP_ENV": "production", **whole}.items():
        monkeypatch.setitem(context.config, name, value)
    assert list(doctor.check_settings()) == [Finding("settings", OK, "APP_ENV=production; https://api.example")]
