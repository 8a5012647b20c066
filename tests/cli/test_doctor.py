"""`flask doctor`: findings with a remedy for each problem."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
import redis
import sqlalchemy as sa
from flask import Flask

from saas_api.cli import errors, output
from saas_api.cli.commands import doctor
from saas_api.cli.commands.doctor import FAIL, OK, WARN, Finding
from saas_api.cli.dev.engines import Engines
from saas_api.core.db import engine, tenancy
from saas_api.core.db.engine import db
from saas_api.core.jobs import schedule
from tests.support.accounts import User, make_key
from tests.support.migrations import stamped_revision
from tests.support.redis_outage import NO_REDIS

GOOD = {
    "APP_ENV": "production",
    "APP_URL": "https://api.example",
    "SMTP_HOST": "mail.example",
    "TRUSTED_PROXIES": 1,
    "METRICS_TOKEN": "token of Prometheus",
    "STRIPE_SECRET_KEY": "sk_x",
    "STRIPE_WEBHOOK_SECRET": "whsec_x",
    "SERVICES": [],
    "SELLER_ADDRESS": "1 Main Street|Springfield",
}


def run_doctor(app: Flask, *options: str) -> tuple[int, dict[str, Any]]:
    result = app.test_cli_runner().invoke(args=["doctor", "--json", *options])
    findings = json.loads(result.stdout)
    return result.exit_code, {finding["name"]: finding for finding in findings["findings"]}


def test_healthy_engines_without_scheduler_and_workers(app: Flask) -> None:
    code, findings = run_doctor(app)
    healthy = {name for name, finding in findings.items() if finding["state"] == OK}
    assert healthy >= {"settings", "PostgreSQL", "roles", "migrations", "tables", "versions", "zone data", "backup"}
    assert healthy >= {"clock of PostgreSQL", "clock of Redis", "peppers", "SECRET_KEY"}
    assert findings["scheduler"]["state"] == FAIL
    assert findings["queue messages"]["remedy"] == "Start flask worker; make run does."
    assert code == 3


def test_remedy_follows_the_finding_on_a_line_of_its_own(app: Flask) -> None:
    lines = app.test_cli_runner().invoke(args=["doctor"]).output.splitlines()
    line_number = lines.index("fail  queue messages: no worker serves it")
    assert lines[line_number + 1] == "      Start flask worker; make run does."


def test_database_of_an_older_revision_is_a_failure(app: Flask) -> None:
    with stamped_revision(app, "0022"):
        code, findings = run_doctor(app)
    assert (code, findings["migrations"]["remedy"]) == (3, "Run flask db upgrade.")
    assert "scheduler" not in findings


def test_database_of_a_newer_release_is_a_warning_while_it_is_rolled_out(app: Flask) -> None:
    """The tables are brought up before the processes, so the old release meets tables of the new one."""
    with stamped_revision(app, "9001"):
        _, findings = run_doctor(app)
    assert (findings["migrations"]["state"], findings["roles"]["state"]) == (WARN, OK)
    assert "revision 9001, which version" in findings["migrations"]["what"]


def test_processes_of_another_version_are_named(context: Flask) -> None:
    options = {**context.config["SQLALCHEMY_ENGINE_OPTIONS"], **engine.engine_options("worker 0.0.9")}
    older = sa.create_engine(
        context.config["DATABASE_URL"], poolclass=sa.NullPool, connect_args=options["connect_args"]
    )
    assert doctor.check_versions().state == OK
    with older.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        finding = doctor.check_versions()
    assert (finding.state, "processes of version 0.0.9 are connected" in finding.what) == (WARN, True)


@pytest.fixture
def altered(superuser: Any) -> Iterator[Callable[[str, str], None]]:
    """A function that executes SQL, and at the end of the test the SQL that undoes it."""
    undo: list[str] = []

    def execute(statement: str) -> None:
        with superuser, superuser.cursor() as cursor:
            cursor.execute(statement)

    def alter(change: str, back: str) -> None:
        execute(change)
        undo.append(back)

    yield alter
    for statement in reversed(undo):
        execute(statement)


@pytest.mark.parametrize(
    ("change", "back", "check", "part"),
    [
        (
            "ALTER TABLE job_runs RENAME TO set_aside; CREATE TABLE job_runs (LIKE set_aside)",
            "DROP TABLE job_runs; ALTER TABLE set_aside RENAME TO job_runs",
            "tables",
            "table job_runs has no primary key",
        ),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'mails_pkey'::regclass",
            "UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'mails_pkey'::regclass",
            "tables",
            "index mails_pkey is not valid",
        ),
        (
            "ALTER TABLE messages NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY",
            "ALTER TABLE messages FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY",
            "roles",
            "table messages is not protected",
        ),
    ],
)
def test_half_restored_backup_is_one_line_that_names_the_command(
    context: Flask, altered: Callable[[str, str], None], change: str, back: str, check: str, part: str
) -> None:
    """pg_restore creates tables, fills them, and gives them keys, indexes and policies at the end."""
    altered(change, back)
    finding = {"tables": doctor.check_tables, "roles": doctor.check_roles}[check]()
    assert (finding.state, part in finding.what) == (FAIL, True)
    assert "flask restore into an empty database" in finding.remedy


def test_age_of_the_last_backup(context: Flask, altered: Callable[[str, str], None]) -> None:
    output.record_audit("platform.backed_up", ("backup", "nightly"), {})
    assert doctor.check_backup().state == OK
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "MAX_BACKUP_AGE", timedelta(0))
        finding = doctor.check_backup()
    assert (finding.state, finding.what) == (WARN, "the last flask backup is 0 hours old")


def test_production_without_a_backup_is_a_warning(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_backup().state == OK
    monkeypatch.setitem(context.config, "APP_ENV", "production")
    assert (doctor.check_backup().state, "flask backup" in doctor.check_backup().remedy) == (WARN, True)


def test_superuser_login_is_a_failure_in_production(
    context: Flask, monkeypatch: pytest.MonkeyPatch, engines: Engines
) -> None:
    """O13: nothing protects the rows from a superuser."""
    url = sa.make_url(engines.database_url).set(username="postgres")
    monkeypatch.setitem(context.config, "APP_ENV", "production")
    monkeypatch.setitem(db.engines, None, sa.create_engine(url, **context.config["SQLALCHEMY_ENGINE_OPTIONS"]))
    finding = doctor.check_roles()
    assert (finding.state, "the login postgres is a superuser" in finding.what) == (FAIL, True)


@pytest.mark.parametrize(
    ("login", "reason"),
    [("nobody_here", 'role "nobody_here" does not exist'), ("bare", 'permission denied to set role "saas_tenant"')],
)
def test_missing_role_is_one_line_that_names_the_command(
    context: Flask,
    monkeypatch: pytest.MonkeyPatch,
    altered: Callable[[str, str], None],
    engines: Engines,
    login: str,
    reason: str,
) -> None:
    """O3: PostgreSQL refuses the connection itself, so `flask doctor` and every command say how to get the role."""
    altered("CREATE ROLE bare LOGIN", "DROP ROLE bare")
    url = sa.make_url(engines.database_url).set(username=login)
    monkeypatch.setitem(db.engines, None, sa.create_engine(url, **context.config["SQLALCHEMY_ENGINE_OPTIONS"]))
    finding = doctor.check_postgres()
    assert (finding.state, reason in finding.what, finding.remedy) == (FAIL, True, errors.CREATE_ROLES)
    result = context.test_cli_runner().invoke(args=["schedule", "list"])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert reason in result.stderr
    assert errors.CREATE_ROLES in result.stderr


@pytest.mark.parametrize(("major", "state"), [(13, FAIL), (14, OK), (18, OK), (19, WARN)])
def test_version_of_postgresql(context: Flask, monkeypatch: pytest.MonkeyPatch, major: int, state: str) -> None:
    with db.engine.connect() as connection:
        monkeypatch.setattr(type(connection), "scalar", lambda _connection, _statement: f"{major}0004")
        assert doctor.check_postgres().state == state


@pytest.mark.parametrize(
    ("info", "state", "part"),
    [
        ({"redis_version": "6.0.16"}, FAIL, "too old"),
        ({"maxmemory_policy": "allkeys-lru"}, WARN, "forgets wake-ups (allkeys-lru)"),
        ({"aof_enabled": 0}, WARN, "loses wake-ups"),
        ({"maxmemory": 1000, "used_memory": 850}, WARN, "85% of its maxmemory"),
        ({"maxmemory": 1000, "used_memory": 990}, FAIL, "99% of its maxmemory"),
        ({}, OK, "noeviction, appends to a file"),
    ],
)
def test_redis_that_loses_data_or_is_full(
    context: Flask, monkeypatch: pytest.MonkeyPatch, info: dict[str, Any], state: str, part: str
) -> None:
    healthy = {"redis_version": "7.2.1", "maxmemory_policy": "noeviction", "aof_enabled": 1}
    monkeypatch.setattr(redis.Redis, "info", lambda _client, _section: {**healthy, **info})
    finding = doctor.check_redis()
    assert (finding.state, part in finding.what) == (state, True)


def test_redis_that_answers_without_its_password_is_a_failure(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(context.config, "APP_ENV", "production")
    url = context.config["REDIS_URL"].replace("unix://", "unix://default:forgotten@")
    monkeypatch.setitem(context.config, "REDIS_URL", url)
    finding = doctor.check_redis()
    assert (finding.state, finding.what) == (FAIL, "it answers without a password")


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
        for read_clock in (doctor._read_postgres_clock, doctor._read_redis_clock):
            assert doctor.check_clock("an engine", read_clock).state == state


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
        ({"SELLER_ADDRESS": None}, "where the seller is"),
        ({"APP_URL": "http://localhost:8080"}, "is not encrypted"),
        ({"STRIPE_SECRET_KEY": None}, "no payment provider is configured"),
        ({"STRIPE_WEBHOOK_SECRET": None}, "Stripe's events are refused"),
        ({"PAYMENTS_ALLOW_MOCK": True}, "play money"),
        ({"TRUSTED_PROXIES": 0}, "share its limits"),
        ({"METRICS_TOKEN": None}, "answers this machine only"),
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
    assert len(list(doctor.check_settings())) == 6


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


def test_old_pepper_may_go_when_its_keys_were_used(app: Flask, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key(alice.client, alice)
    monkeypatch.setitem(app.config, "API_KEY_PEPPER", f"2:{'q' * 32},1:{'p' * 32}")
    assert alice.client.get("/api/v1/usage", headers=key).status_code == 200
    with app.app_context():
        finding = doctor.check_peppers()
    assert (finding.state, "older ones in API_KEY_PEPPER may go" in finding.what) == (OK, True)
    monkeypatch.setitem(app.config, "API_KEY_PEPPER", f"2:{'q' * 32}")
    assert alice.client.get("/api/v1/usage", headers=key).status_code == 200


def test_complete_settings_of_production_are_ok(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setitem(context.config, name, value)
    assert list(doctor.check_settings()) == [Finding("settings", OK, "APP_ENV=production; https://api.example")]
