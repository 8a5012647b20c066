"""Checks of an installation."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import redis
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from click.exceptions import Exit
from flask import current_app
from flask.cli import with_appcontext
from rq import Worker
from rq_scheduler import Scheduler
from sqlalchemy.exc import SQLAlchemyError

from saas_api.cli import output, types
from saas_api.cli.errors import EXIT_PROBLEMS, Command
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.db.engine import db
from saas_api.core.db.tenancy import UnsafeDatabase
from saas_api.core.jobs import queue, schedule
from saas_api.core.settings import setting
from saas_api.settings import instance


@click.command("doctor", cls=Command)
@types.json_option
@with_appcontext
def doctor(*, as_json: bool) -> None:
    """Look at settings, engines, roles, migrations, clocks, zone data, scheduler, workers and disk.

    It changes nothing, and ends with 3 when something does not work; a warning alone ends with 0.

    Example: flask doctor --json
    """
    findings = list(collect_findings())
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<4}  {finding.name}: {finding.what}")
        lines += [f"      {finding.remedy}"] if finding.remedy else []
    is_well = all(finding.state != FAIL for finding in findings)
    output.print_result(
        {"is_well": is_well, "findings": [asdict(finding) for finding in findings]}, lines, as_json=as_json
    )
    if not is_well:
        raise Exit(EXIT_PROBLEMS)


@dataclass(frozen=True)
class Finding:
    """One part of the installation.

    state: OK; WARN where it works and should be otherwise; FAIL where something does not work
    remedy: what to do; empty when all is well
    """

    name: str
    state: str
    what: str
    remedy: str = ""


def collect_findings() -> Iterator[Finding]:
    """Every finding; what needs an engine that is away is left out."""
    yield from check_settings()
    postgres, cache = check_postgres(), check_redis()
    yield from (postgres, cache)
    has_postgres, has_redis = postgres.state != FAIL, cache.state != FAIL
    if has_postgres:
        roles, migrations = check_roles(), check_migrations()
        yield from (roles, migrations, check_clocks())
        has_postgres = FAIL not in (roles.state, migrations.state)
    if has_postgres:
        yield check_time_zones()
    if has_postgres and has_redis:
        yield check_scheduler()
    if has_redis:
        yield from check_workers()
    yield from check_disk()


OK, WARN, FAIL = "ok", "warn", "fail"


def worst_finding(name: str, what: str, *problems: tuple[bool, str, str, str]) -> Finding:
    """The first problem there is, or that all is well.

    what: said when there is none
    problems: whether it is one, state, what is wrong, what to do
    """
    for is_wrong, state, wrong, remedy in problems:
        if is_wrong:
            return Finding(name, state, wrong, remedy)
    return Finding(name, OK, what)


CLOCK_SKEW_WARN_SECONDS, CLOCK_SKEW_FAIL_SECONDS = 2.0, 30.0
HEARTBEAT_TIMEOUT_SECONDS = 180.0
_MONTHS_AHEAD = 24
_LOCAL = sa.text("""SELECT z, t, t AT TIME ZONE z FROM unnest(CAST(:zones AS text[])) z,
  unnest(CAST(:times AS timestamptz[])) t""")


def check_clocks() -> Finding:
    """Whether this machine and PostgreSQL tell the same time."""
    before = time.time()
    with db.engine.connect() as connection:
        theirs = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one().timestamp()
    apart = abs((before + time.time()) / 2 - theirs)
    wrong = f"this machine and PostgreSQL are {apart:.1f} s apart"
    remedy = "Let both follow NTP; leases and periods are counted by either."
    return worst_finding(
        "clock",
        f"{apart:.1f} s apart from PostgreSQL",
        (apart > CLOCK_SKEW_FAIL_SECONDS, FAIL, wrong, remedy),
        (apart > CLOCK_SKEW_WARN_SECONDS, WARN, wrong, remedy),
    )


def check_time_zones() -> Finding:
    """Whether PostgreSQL and Python agree when months begin, in every zone that an organization has."""
    with tenancy.system_session("cli.zones") as session:
        named = sorted({"UTC", *session.scalars(sa.text("SELECT DISTINCT timezone FROM organizations"))})
        times = [datetime.now(UTC) + timedelta(days=30 * month) for month in range(_MONTHS_AHEAD)]
        try:
            rows = session.execute(_LOCAL, {"zones": named, "times": times}).all()
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
            return Finding("zone data", FAIL, f"PostgreSQL: {reason}", "Bring PostgreSQL's zone data up to date.")
    odd = sorted(
        {name for name, at, local in rows if at.astimezone(clock.get_zone(name)).replace(tzinfo=None) != local}
    )
    wrong = f"PostgreSQL and tzdata {check_zone_data()} disagree about {', '.join(odd)}"
    remedy = "Bring PostgreSQL's zone data and the package tzdata up to date."
    return worst_finding(
        "zone data", f"tzdata {check_zone_data()}, zones: {len(named)}", (bool(odd), FAIL, wrong, remedy)
    )


def check_scheduler() -> Finding:
    """Whether a scheduler beats, and jobs begin."""
    with queue.worker_redis() as client:
        beating = sum(1 for _ in client.scan_iter(f"{Scheduler.redis_scheduler_namespace_prefix}*"))
    silence = schedule.seconds_since_last_run()
    last = "no job has ever run" if silence is None else f"the last job began {silence:.0f} s ago"
    is_silent = silence is None or silence > HEARTBEAT_TIMEOUT_SECONDS
    return worst_finding(
        "scheduler",
        last,
        (not beating, FAIL, f"none is running; {last}", "Start flask scheduler; make run does."),
        (is_silent, WARN, last, "Look at the logs of flask scheduler and flask worker."),
    )


def check_workers() -> Iterator[Finding]:
    """Whether somebody works on every queue."""
    with queue.worker_redis() as client:
        served = [name for worker in Worker.all(connection=client) for name in worker.queue_names()]
    for name in queue.queue_names():
        if name in served:
            yield Finding(f"queue {name}", OK, f"workers: {served.count(name)}")
        else:
            yield Finding(f"queue {name}", FAIL, "nobody works on it", "Start flask worker; make run does.")


MIN_POSTGRES, MAX_POSTGRES, MIN_REDIS = 14, 18, (6, 2)
DISK_WARN_BYTES, DISK_FAIL_BYTES = 1_000_000_000, 200_000_000
_START = "make run starts it here; elsewhere look at {}."


def check_settings() -> Iterator[Finding]:
    """Settings that let the product start and are still not what a place of its kind should have."""
    place = setting("APP_ENV")
    if place != "production":
        yield Finding("settings", OK, f"APP_ENV={place}; {setting('APP_URL')}")
        return
    has_provider = setting("STRIPE_SECRET_KEY") or setting("PAYSTACK_SECRET_KEY")
    url = str(setting("APP_URL"))
    yield worst_finding(
        "settings",
        f"APP_ENV=production; {url}",
        (not url.startswith("https://"), WARN, f"APP_URL={url} is not encrypted", "Set APP_URL to its https address."),
        (not setting("SMTP_HOST"), WARN, "mail reaches nobody", "Set SMTP_HOST; until then it stays in instance/mail."),
        (
            bool(setting("PAYMENTS_ALLOW_MOCK")),
            WARN,
            "invoices can be paid with play money",
            "Unset PAYMENTS_ALLOW_MOCK.",
        ),
        (not has_provider, WARN, "nobody can pay", "Set STRIPE_SECRET_KEY or PAYSTACK_SECRET_KEY."),
    )


def check_postgres() -> Finding:
    """Whether PostgreSQL answers, and which it is."""
    try:
        with db.engine.connect() as connection:
            number = int(str(connection.scalar(sa.text("SHOW server_version_num"))))
    except SQLAlchemyError as error:
        return Finding("PostgreSQL", FAIL, _reason(error), _START.format("DATABASE_URL"))
    major = number // 10_000
    return worst_finding(
        "PostgreSQL",
        f"version {major}.{number % 10_000}",
        (major < MIN_POSTGRES, FAIL, f"version {major} is too old", f"Use {MIN_POSTGRES} to {MAX_POSTGRES}."),
        (
            major > MAX_POSTGRES,
            WARN,
            f"version {major} was never tried",
            f"Use {MIN_POSTGRES} to {MAX_POSTGRES}.",
        ),
    )


def check_roles() -> Finding:
    """Whether the database keeps organizations apart."""
    try:
        tenancy.verify_isolation()
    except UnsafeDatabase as error:
        return Finding("roles", FAIL, str(error), "compose.yaml shows how the login and both roles are made.")
    except SQLAlchemyError as error:
        return Finding("roles", FAIL, _reason(error), "Bring the tables up: flask db upgrade.")
    return Finding("roles", OK, "a forgotten filter shows no row")


def check_migrations() -> Finding:
    """Whether the tables are those this code expects."""
    directory = Path(current_app.root_path).parent / "migrations"
    head = ScriptDirectory(str(directory)).get_current_head()
    with db.engine.connect() as connection:
        connection.execute(sa.text("SET LOCAL ROLE NONE"))  # neither role of the application reads that table
        current = MigrationContext.configure(connection).get_current_revision()
    wrong = f"the tables are of revision {current or 'none'}, the code expects {head}"
    return worst_finding("migrations", f"revision {current}", (current != head, FAIL, wrong, "Run flask db upgrade."))


def check_redis() -> Finding:
    """Whether Redis answers, and would keep what it is given."""
    try:
        with queue.worker_redis() as client:
            found: dict[str, Any] = {**client.info("server"), **client.info("memory"), **client.info("persistence")}
    except redis.RedisError as error:
        return Finding("Redis", FAIL, str(error), _START.format("REDIS_URL"))
    number = str(found["redis_version"])
    parts = tuple(int(part) for part in number.split(".")[:2])
    policy, is_kept = found.get("maxmemory_policy", "noeviction"), bool(found.get("aof_enabled"))
    return worst_finding(
        "Redis",
        f"version {number}, {policy}, appends to a file",
        (parts < MIN_REDIS, FAIL, f"version {number} is too old", "Use 6.2 or later."),
        (policy != "noeviction", WARN, f"it forgets wake-ups ({policy})", "Set maxmemory-policy noeviction."),
        (not is_kept, WARN, "it loses wake-ups and limits when it ends", "Set appendonly yes."),
    )


def check_disk() -> Iterator[Finding]:
    """Whether there is room where the product writes."""
    instance_path = Path(setting("INSTANCE"))
    folders = {"disk": instance_path}
    if (
        instance.embedded_engines(instance_path, setting("DATABASE_URL"), setting("REDIS_URL"))
        and instance.engine_directory(instance_path) != instance_path
    ):
        folders["disk of the engines"] = instance.engine_directory(instance_path)
    for name, folder in folders.items():
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        left = f"{free / 1e9:.1f} GB free in {existing}"
        yield worst_finding(
            name,
            left,
            (free < DISK_FAIL_BYTES, FAIL, left, "Make room; PostgreSQL stops when there is none."),
            (free < DISK_WARN_BYTES, WARN, left, "Make room before it is gone."),
        )


def check_zone_data() -> str:
    """Which edition of the world's time zones Python reads."""
    return version("tzdata")


def _reason(error: SQLAlchemyError) -> str:
    return (str(getattr(error, "orig", error)).strip().splitlines() or ["no reason given"])[0]
