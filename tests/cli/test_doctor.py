"""`flask doctor`: findings with a remedy for each problem."""

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
from tests.support.accounts import make_key
from tests.support.migrations import stamped_revision
from tests.support.redis_outage import NO_REDIS

GOOD = {
    "APP_ENV": "production",
    "APP_URL": "https://api.example",
    "SMTP_HOST": "mail.example",
    "STRIPE_SECRET_KEY": "sk_x",
    "STRIPE_WEBHOOK_SECRET": "whsec_x",
    "SERVICES": [],
}


def run_doctor(app: Flask, *options: str) -> tuple[int, dict[str, Any]]:
    result = app.test_cli_runner().invoke(args=["doctor", "--json", *options])
    findings = json.loads(result.stdout)
    return result.exit_code, {finding["name"]: finding for finding in findings["findings"]}


def test_healthy_engines_without_scheduler_and_workers(app: Flask) -> None:
    code, findings = run_doctor(app)
    healthy = {name for name, finding in findings.items() if finding["state"] == OK}
    assert healthy >= {"settings", "PostgreSQL", "roles", "migrations", "clock", "zone data"}
    assert findings["scheduler"]["state"] == FAIL
    assert findings["queue messages"]["remedy"] == "Start flask worker; make run does."
    assert code == 3


def test_remedy_follows_the_finding_on_a_line_of_its_own(app: Flask) -> None:
    lines = app.test_cli_runner().invoke(args=["doctor"]).output.splitlines()
    line_number = lines.index("fail  queue messages: no worker serves it")
    assert lines[line_number + 1] == "      Start flask worker; make run does."


def test_database_of_another_revision_is_a_failure(app: Flask) -> None:
    with stamped_revision(app, "older"):
        code, findings = run_doctor(app)
    assert (code, findings["migrations"]["remedy"]) == (3, "Run flask db upgrade.")
    assert "scheduler" not in findings


def test_unreachable_engines_are_failures_without_traceback() -> None:
    app = Flask("unreachable")
    app.config.update(
        APP_ENV="test", REDIS_URL=NO_REDIS, SQLALCHEMY_DATABASE_URI="postgresql+psycopg2://saas@127.0.0.1:1/saas"
    )
    db.init_app(app)
    with app.app_context():
        findings = doctor.check_redis(), doctor.check_postgres()
    for finding in findings:
        assert finding.state == FAIL
        assert finding.remedy.startswith("make run starts it here")


def test_clock_skew_is_a_warning_and_then_a_failure(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.time.time
    for seconds, state in ((0, OK), (10, WARN), (100, FAIL)):
        monkeypatch.setattr(doctor.time, "time", lambda by=seconds: real() + by)
        assert doctor.check_clocks().state == state


def test_time_zone_unknown_to_postgresql_is_a_failure(context: Flask, alice: Any) -> None:
    with tenancy.system_session("cli.zones") as session:
        session.execute(sa.text("UPDATE organizations SET timezone = 'Mars/Olympus'"))
    finding = doctor.check_time_zones()
    assert (finding.name, finding.state) == ("zone data", FAIL)
    assert "Mars/Olympus" in finding.what


def test_scheduler_with_heartbeat_and_recent_run_is_ok(context: Flask) -> None:
    schedule.run_scheduled("usage.roll_up", doctor.datetime.now(doctor.UTC), "test")
    with redis.Redis.from_url(context.config["REDIS_URL"]) as client:
        client.hset(f"{doctor.Scheduler.redis_scheduler_namespace_prefix}one", "beat", 1)
    assert doctor.check_scheduler().state == OK


class Usage(NamedTuple):
    free: int


@pytest.mark.parametrize(("free", "state"), [(10**8, FAIL), (5 * 10**8, WARN), (10**12, OK)])
def test_full_disk_is_a_warning_and_then_a_failure(
    context: Flask, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(free))
    assert {finding.state for finding in doctor.check_disk()} == {state}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"APP_URL": "http://localhost:8080"}, "is not encrypted"),
        ({"STRIPE_SECRET_KEY": None}, "no payment provider is configured"),
        ({"STRIPE_WEBHOOK_SECRET": None}, "Stripe's events are refused"),
        ({"PAYMENTS_ALLOW_MOCK": True}, "play money"),
    ],
)
def test_risky_setting_of_production_is_a_warning(
    context: Flask, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], part: str
) -> None:
    for name, value in {**GOOD, **changes}.items():
        monkeypatch.setitem(context.config, name, value)
    [finding] = doctor.check_settings()
    assert (finding.state, part in finding.what) == (WARN, True)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"SMTP_HOST": None}, "mail is not sent"),
        ({"SERVICES": ["messages"]}, "live messages are refused"),
        ({"SERVICES": ["messages"], "MESSAGES_ALLOW_MOCK": True}, "the mock provider delivers none"),
    ],
)
def test_production_without_a_provider_is_a_failure(
    context: Flask, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], part: str
) -> None:
    """O4, O9: messages or mails that no provider delivers make the doctor fail."""
    for name, value in {**GOOD, **changes}.items():
        monkeypatch.setitem(context.config, name, value)
    [finding] = doctor.check_settings()
    assert (finding.state, part in finding.what) == (FAIL, True)


def test_every_risky_setting_is_a_finding(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(context.config, "APP_ENV", "production")
    assert len(list(doctor.check_settings())) == 4


def test_remedy_in_production_does_not_name_make_run(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "APP_ENV", "production")
    assert "make run" not in app.test_cli_runner().invoke(args=["doctor"]).output


def test_secret_under_an_old_pepper_is_a_warning_and_under_a_missing_one_a_failure(
    context: Flask, alice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O12: a pepper may go when no active secret has it, and the doctor says when."""
    make_key(alice.client, alice)
    assert doctor.check_peppers().state == OK
    monkeypatch.setitem(context.config, "API_KEY_PEPPER", f"2:{'q' * 32},1:{'p' * 32}")
    assert doctor.check_peppers().state == WARN
    status = context.test_cli_runner().invoke(args=["keys", "pepper-status", "--json"])
    assert (status.exit_code, json.loads(status.stdout)) == (
        0,
        {"counts": {"1": 1}, "current": 2, "old": 1, "lost": 0},
    )
    monkeypatch.setitem(context.config, "API_KEY_PEPPER", f"2:{'q' * 32}")
    assert doctor.check_peppers().state == FAIL
    assert context.test_cli_runner().invoke(args=["keys", "pepper-status"]).exit_code == 3


def test_complete_settings_of_production_are_ok(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setitem(context.config, name, value)
    assert list(doctor.check_settings()) == [Finding("settings", OK, "APP_ENV=production; https://api.example")]
