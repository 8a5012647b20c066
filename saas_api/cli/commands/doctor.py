"""`flask doctor`: checks of an installation, none of which changes anything."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import redis
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError as UnknownRevision
from click.exceptions import Exit
from flask.cli import with_appcontext
from rq import Worker
from rq_scheduler import Scheduler
from sqlalchemy.exc import SQLAlchemyError

from saas_api.accounts import authenticators
from saas_api.cli import errors, output, types
from saas_api.cli.commands import keys
from saas_api.cli.errors import CREATE_ROLES, EXIT_PROBLEMS, Command
from saas_api.core import access, crypto, ids, redis_url, time_zones
from saas_api.core.db import cells, engine, presence, roles, tenancy
from saas_api.core.db.engine import db
from saas_api.core.db.replica import Replica
from saas_api.core.db.roles import MAX_POSTGRES, MIN_POSTGRES
from saas_api.core.db.tenancy import UnsafeDatabase
from saas_api.core.jobs import queue, schedule
from saas_api.core.limits import diagnosis
from saas_api.core.settings import ROOT, setting
from saas_api.ops import cell_moves
from saas_api.settings import instance
from saas_api.webhooks import secrets as webhook_secrets

OK, WARN, FAIL = "ok", "warn", "fail"
CLOCK_SKEW_WARN_SECONDS, CLOCK_SKEW_FAIL_SECONDS = 2.0, 30.0
MAX_SECONDS_WITHOUT_RUN = 180.0
REPLICA_LAG_WARN_SECONDS = 10.0
DISK_WARN_BYTES, DISK_FAIL_BYTES = 1_000_000_000, 200_000_000
REDIS_MEMORY_WARN, REDIS_MEMORY_FAIL = 0.8, 0.95
MAX_BACKUP_AGE = timedelta(days=2)
_RESTORE_AGAIN = (
    "A restore was broken off: flask restore into an empty database restores all or nothing. After a migration that was"
    " broken off, REINDEX INDEX CONCURRENTLY makes an index valid."
)
_MONTHS_AHEAD = 24
_LOCAL_TIMES = sa.text("""SELECT z, t, t AT TIME ZONE z FROM unnest(CAST(:zones AS text[])) z,
  unnest(CAST(:times AS timestamptz[])) t""")
_INCOMPLETE = sa.text("""
SELECT 'table ' || relname || ' has no primary key' FROM pg_class c
 WHERE relnamespace = to_regnamespace(current_schema()) AND relkind = 'r' AND NOT relispartition
   AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
UNION ALL
SELECT 'index ' || indexrelid::regclass || ' is not valid' FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE c.relnamespace = to_regnamespace(current_schema()) AND c.relkind = 'i' AND NOT i.indisvalid
ORDER BY 1""")
_PROCESSES = sa.text("""
SELECT DISTINCT application_name FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'saas-api %'""")
_LAST_BACKUP = sa.text(
    "SELECT max(at) FROM audit_events WHERE organization_id IS NULL AND action = 'platform.backed_up'"
)


@click.command("doctor", cls=Command)
@types.json_option
@with_appcontext
def doctor(*, as_json: bool) -> None:
    """Check settings, engines, roles, tables, clocks, zone data, secrets, scheduler, workers, backups and disk.

    Changes nothing. Exits with 3 if a check fails, and with 0 if there are only warnings.

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
    """Result of one check.

    state: OK, WARN for a risk, FAIL when something does not work
    what: the observation, as a text
    remedy: what to do; empty when the state is OK
    """

    name: str
    state: str
    what: str
    remedy: str = ""


def collect_findings() -> Iterator[Finding]:
    """Findings of all checks; those that need an unreachable engine are left out."""
    yield from check_settings()
    postgres_finding, redis_finding = check_postgres(), check_redis()
    yield from (postgres_finding, redis_finding)
    if setting("LIMITS_REDIS_URL") != setting("REDIS_URL"):
        yield check_limits_redis()
    has_postgres, has_redis = postgres_finding.state != FAIL, redis_finding.state != FAIL
    if has_postgres:
        findings = check_roles(), check_migrations(), check_tables()
        yield from (*findings, check_versions(), check_clock("PostgreSQL", _read_postgres_clock))
        has_postgres = all(finding.state != FAIL for finding in findings)
        if replica := engine.find_replica():
            yield check_replica(replica)
    if has_postgres:
        yield from check_cells()
        yield from (check_time_zones(), check_peppers(), check_secret_key(), check_backup())
    if has_postgres and has_redis:
        yield check_scheduler()
    if has_redis:
        yield check_clock("Redis", _read_redis_clock)
        yield from check_workers()
    yield from check_disk()


def check_cells() -> Iterator[Finding]:
    """The database of each cell beside home, and moves that were interrupted or are running."""
    for cell in cells.names()[1:]:
        with cells.use(cell):
            postgres = check_postgres()
            parts = (check_migrations, check_tables, check_presence)
            findings = [postgres] if postgres.state == FAIL else [postgres, *(check() for check in parts)]
        for finding in findings:
            remedy = finding.remedy and finding.remedy.replace("DATABASE_URL", "CELLS")
            yield replace(finding, name=f"{finding.name} of cell {cell}", remedy=remedy)
    if cells.are_several():
        yield check_presence()
        moving = [f"{ids.format_id('org', one)} to {state.moving_to}" for one, state in cell_moves.list_moving()]
        remedy = "Unless flask cells move runs for it now, run it again: its requests are refused until it ends."
        yield _first_problem(
            "moves", "no organization is being moved", (bool(moving), WARN, f"being moved: {', '.join(moving)}", remedy)
        )


def check_presence() -> Finding:
    """Whether every table of the current cell hides the organizations that are not there."""
    with engine.current_engine().connect() as connection:
        tables = ", ".join(table.name for table in presence.find_unprotected(connection))
    problem = f"visible are rows that are left of other organizations in {tables}"
    what = "organizations that are elsewhere are hidden"
    return _first_problem("presence", what, (bool(tables), FAIL, problem, "Run flask db upgrade where CELLS is set."))


def check_clock(name: str, read_clock: Callable[[], float]) -> Finding:
    """Difference between the clocks of this machine and of an engine.

    read_clock: returns the engine's seconds since 1970
    """
    before = time.time()
    engine_time = read_clock()
    skew = abs((before + time.time()) / 2 - engine_time)
    problem = f"this machine and {name} are {skew:.1f} s apart"
    remedy = "Let both follow NTP; leases, limits and periods are counted by either."
    return _first_problem(
        f"clock of {name}",
        f"{skew:.1f} s apart from this machine",
        (skew > CLOCK_SKEW_FAIL_SECONDS, FAIL, problem, remedy),
        (skew > CLOCK_SKEW_WARN_SECONDS, WARN, problem, remedy),
    )


def _read_postgres_clock() -> float:
    with db.engine.connect() as connection:
        return float(connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one().timestamp())


def _read_redis_clock() -> float:
    with queue.worker_redis() as client:
        seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6


def check_time_zones() -> Finding:
    """Whether PostgreSQL and Python compute the same local times in the time zones of all organizations."""
    with tenancy.system_session("cli.zones") as session:
        zones = sorted({"UTC", *session.scalars(sa.text("SELECT DISTINCT timezone FROM organizations"))})
        times = [datetime.now(UTC) + timedelta(days=30 * month) for month in range(_MONTHS_AHEAD)]
        try:
            rows = session.execute(_LOCAL_TIMES, {"zones": zones, "times": times}).all()
        except SQLAlchemyError as error:
            reason = errors.database_reason(error)
            return Finding("zone data", FAIL, f"PostgreSQL: {reason}", "Bring PostgreSQL's zone data up to date.")
    differing = sorted(
        {zone for zone, at, local in rows if at.astimezone(time_zones.get_zone(zone)).replace(tzinfo=None) != local}
    )
    tzdata = version("tzdata")
    problem = f"PostgreSQL and tzdata {tzdata} disagree about {', '.join(differing)}"
    remedy = "Bring PostgreSQL's zone data and the package tzdata up to date."
    return _first_problem(
        "zone data", f"tzdata {tzdata}, zones: {len(zones)}", (bool(differing), FAIL, problem, remedy)
    )


def check_scheduler() -> Finding:
    """Whether a scheduler process is alive, and jobs begin."""
    with queue.worker_redis() as client:
        has_scheduler = any(client.scan_iter(f"{Scheduler.redis_scheduler_namespace_prefix}*"))
    silence = schedule.seconds_since_last_run()
    last = "no job has ever run" if silence is None else f"the last job began {silence:.0f} s ago"
    is_silent = silence is None or silence > MAX_SECONDS_WITHOUT_RUN
    return _first_problem(
        "scheduler",
        last,
        (
            not has_scheduler,
            FAIL,
            f"none is running; {last}",
            _start_hint("Start flask scheduler; make run does.", "Start flask scheduler."),
        ),
        (is_silent, WARN, last, "Look at the logs of flask scheduler and flask worker."),
    )


def check_workers() -> Iterator[Finding]:
    """Number of workers of each queue."""
    with queue.worker_redis() as client:
        served = [name for worker in Worker.all(connection=client) for name in worker.queue_names()]
    for name in queue.queue_names():
        if name in served:
            yield Finding(f"queue {name}", OK, f"workers: {served.count(name)}")
        else:
            yield Finding(
                f"queue {name}",
                FAIL,
                "no worker serves it",
                _start_hint("Start flask worker; make run does.", "Start flask worker."),
            )


def check_settings() -> Iterator[Finding]:
    """Settings of production that are valid and still risky, each as a finding of its own."""
    problems = list(_settings_problems()) if setting("APP_ENV") == "production" else []
    for state, what, remedy in problems:
        yield Finding("settings", state, what, remedy)
    if not problems:
        yield Finding("settings", OK, f"APP_ENV={setting('APP_ENV')}; {setting('APP_URL')}")


def _settings_problems() -> Iterator[tuple[str, str, str]]:
    """State, observation and remedy of each risk."""
    url = str(setting("APP_URL"))
    if not url.startswith("https://"):
        yield WARN, f"APP_URL={url} is not encrypted", "Set APP_URL to its https address."
    elif not setting("TRUSTED_PROXIES"):
        what = "TRUSTED_PROXIES=0: all clients have the address of the proxy that ends TLS, and share its limits"
        yield WARN, what, "Set TRUSTED_PROXIES to the number of proxies that append to X-Forwarded-For."
    if not setting("METRICS_TOKEN"):
        yield WARN, "/metrics answers this machine only", "Set METRICS_TOKEN, and give it to Prometheus."
    if not setting("SMTP_HOST"):
        yield FAIL, "mail is not sent: neither links nor invitations arrive", "Set SMTP_HOST."
    if access.is_service_offered("messages"):
        if setting("MESSAGES_ALLOW_MOCK"):
            yield FAIL, "live messages are billed, and the mock provider delivers none", "Unset MESSAGES_ALLOW_MOCK."
        else:
            yield FAIL, "live messages are refused: there is no provider", "Set SERVICES=none to offer none."
    yield from _invoicing_problems()


def _invoicing_problems() -> Iterator[tuple[str, str, str]]:
    if not setting("SELLER_ADDRESS"):
        yield WARN, "invoices do not say where the seller is", "Set SELLER_ADDRESS, and SELLER_TAX_ID if you have one."
    if setting("PAYMENTS_ALLOW_MOCK"):
        yield WARN, "invoices can be paid with play money", "Unset PAYMENTS_ALLOW_MOCK."
    if not setting("STRIPE_SECRET_KEY") and not setting("PAYSTACK_SECRET_KEY"):
        yield WARN, "no payment provider is configured", "Set STRIPE_SECRET_KEY or PAYSTACK_SECRET_KEY."
    if setting("STRIPE_SECRET_KEY") and not setting("STRIPE_WEBHOOK_SECRET"):
        yield WARN, "Stripe's events are refused, payments are noticed late", "Set STRIPE_WEBHOOK_SECRET."


def check_peppers() -> Finding:
    """Keys whose digest has an old pepper, or one that API_KEY_PEPPER lacks."""
    peppers = keys.read_peppers()
    unused = " and older ones in API_KEY_PEPPER may go" if len(crypto.pepper_versions()) > 1 else ""
    return _first_problem(
        "peppers",
        f"every secret has version {peppers.current}{unused}",
        (
            peppers.lost > 0,
            FAIL,
            f"secrets under a pepper that API_KEY_PEPPER lacks: {peppers.lost}",
            "Add that version to API_KEY_PEPPER again; flask keys pepper-status names it.",
        ),
        (
            peppers.old > 0,
            WARN,
            f"secrets under an old pepper: {peppers.old}",
            "Keep the old pepper until they are used or revoked; flask keys pepper-status counts them.",
        ),
    )


def check_secret_key() -> Finding:
    """Stored secrets that an old SECRET_KEY encrypts, or one that is not given."""
    counts = webhook_secrets.count_by_secret_key() + authenticators.count_by_secret_key()
    lost, old = counts[crypto.LOST], sum(count for position, count in counts.items() if position > 0)
    has_older = len(setting("SECRET_KEY").split(",")) > 1
    unused = "; older ones may go a day after it was added" if has_older else ""
    return _first_problem(
        "SECRET_KEY",
        f"the first one encrypts every stored secret{unused}",
        (
            lost > 0,
            FAIL,
            f"stored secrets that no SECRET_KEY decrypts: {lost}; webhooks are not sent, users cannot sign in",
            "Add the SECRET_KEY of before again, as SECRET_KEY=new,old.",
        ),
        (
            old > 0,
            WARN,
            f"stored secrets under an old SECRET_KEY: {old}",
            "Run flask secrets reencrypt before you remove it.",
        ),
    )


def check_backup() -> Finding:
    """Age of the last `flask backup`; other backups are not known here."""
    with tenancy.system_session("cli.backups") as session:
        last: datetime | None = session.scalar(_LAST_BACKUP)
    if last is None:
        is_needed = setting("APP_ENV") == "production"
        return _first_problem(
            "backup",
            "none was made by flask backup",
            (
                is_needed,
                WARN,
                "none was made by flask backup",
                "Run flask backup every night, unless your provider keeps backups that you have restored once.",
            ),
        )
    age = datetime.now(UTC) - last
    what = f"the last flask backup is {age.total_seconds() / 3600:.0f} hours old"
    return _first_problem("backup", what, (age > MAX_BACKUP_AGE, WARN, what, "Look why flask backup did not run."))


def check_postgres() -> Finding:
    """Whether PostgreSQL answers, and its version."""
    try:
        with engine.current_engine().connect() as connection:
            number = int(str(connection.scalar(sa.text("SHOW server_version_num"))))
    except SQLAlchemyError as error:
        remedy = _start_hint("make run starts it here; elsewhere look at DATABASE_URL.", "Look at DATABASE_URL.")
        reason = errors.database_reason(error)
        return Finding("PostgreSQL", FAIL, reason, CREATE_ROLES if roles.is_role_missing(reason) else remedy)
    major = number // 10_000
    return _first_problem(
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
    """Whether the database isolates tenants, and the login may not change that."""
    try:
        tenancy.verify_isolation()
    except UnsafeDatabase as error:
        is_incomplete = "row-level security" in str(error)
        return Finding("roles", FAIL, str(error), _RESTORE_AGAIN if is_incomplete else CREATE_ROLES)
    except SQLAlchemyError as error:
        return Finding("roles", FAIL, errors.database_reason(error), "Bring the tables up: flask db upgrade.")
    return Finding("roles", OK, "a forgotten filter shows no row")


def check_replica(replica: Replica) -> Finding:
    """Whether the replica can be read, isolates tenants as the primary does, and how far it is behind."""
    try:
        state = replica.measure()
        tenancy.verify_isolation(replica.engine)
    except UnsafeDatabase as error:
        return Finding("replica", FAIL, str(error), "Use the login of DATABASE_URL, which a replica has too.")
    except SQLAlchemyError as error:
        what = f"{errors.database_reason(error)}; the primary is read"
        return Finding("replica", FAIL, what, "Look at DATABASE_REPLICA_URL.")
    if state.problem is not None:
        what = f"{state.problem.detail}; the primary is read"
        return Finding("replica", FAIL, what, "Let DATABASE_REPLICA_URL lead to a replica of the primary.")
    lag = state.lag_seconds or 0
    return _first_problem(
        "replica",
        f"{lag:.1f} s behind the primary",
        (
            lag > REPLICA_LAG_WARN_SECONDS,
            WARN,
            f"{lag:.0f} s behind the primary, which is read",
            "Look at pg_stat_replication of the primary, and at the load of the replica.",
        ),
    )


def check_migrations() -> Finding:
    """Whether the database has the newest revision of this release, or one of a newer release."""
    scripts = ScriptDirectory(str(ROOT / "migrations"))
    head = scripts.get_current_head()
    try:
        with engine.current_engine().connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
    except SQLAlchemyError:  # before revision 0011 the runtime login may not read it
        current = None
    try:
        scripts.get_revision(current or "base")
        is_newer = False
    except UnknownRevision:
        is_newer = True
    problem = f"the tables are of revision {current or 'none'}, the code expects {head}"
    return _first_problem(
        "migrations",
        f"revision {current}",
        (
            is_newer,
            WARN,
            f"the tables are of revision {current}, which version {setting('VERSION')} does not know",
            "This is right while a newer release is rolled out; otherwise install that release here, too.",
        ),
        (current != head, FAIL, problem, "Run flask db upgrade."),
    )


def check_tables() -> Finding:
    """Whether the tables are whole: a restore or a migration that was broken off leaves some without their indexes."""
    with engine.current_engine().connect() as connection:
        problems = connection.scalars(_INCOMPLETE).all()
    more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
    return _first_problem(
        "tables",
        "each has its primary key, and every index is valid",
        (
            bool(problems),
            FAIL,
            ", ".join(problems[:3]) + more,
            _RESTORE_AGAIN,
        ),
    )


def check_versions() -> Finding:
    """Versions of the processes that are connected to the database."""
    with db.engine.connect() as connection:
        names = connection.scalars(_PROCESSES).all()
    versions = {match[1] for name in names if (match := re.fullmatch(r"saas-api \S+ (\d\S*)", name))}
    others = ", ".join(sorted(versions - {setting("VERSION")}))
    return _first_problem(
        "versions",
        f"every process has version {setting('VERSION')}",
        (
            bool(others),
            WARN,
            f"processes of version {others} are connected besides version {setting('VERSION')}",
            "This is right while a release is rolled out; otherwise restart those that have the wrong version.",
        ),
    )


def check_redis() -> Finding:
    """Whether Redis answers, its version, and whether it keeps its data."""
    try:
        with queue.worker_redis() as client:
            info: dict[str, Any] = {}
            for section in ("server", "memory", "persistence", "cluster"):
                info |= client.info(section)
    except redis.RedisError as error:
        return Finding(
            "Redis",
            FAIL,
            str(error),
            _start_hint("make run starts it here; elsewhere look at REDIS_URL.", "Look at REDIS_URL."),
        )
    number = str(info["redis_version"])
    parts = tuple(int(part) for part in number.split(".")[:2])
    policy, is_persistent = info.get("maxmemory_policy", "noeviction"), bool(info.get("aof_enabled"))
    limit = int(info.get("maxmemory", 0))
    used = int(info.get("used_memory", 0)) / limit if limit else 0
    memory = (f"{used:.0%} of its maxmemory is used", "Raise maxmemory; a full Redis refuses wake-ups.")
    return _first_problem(
        "Redis",
        f"version {number}, {policy}, appends to a file",
        (info.get("cluster_enabled") == 1, FAIL, "it is a node of a cluster", "Only LIMITS_REDIS_URL may name one."),
        (parts < diagnosis.MIN_VERSION, FAIL, f"version {number} is too old", "Use 6.2 or later."),
        (_is_redis_open(), FAIL, "it answers without a password", "Set requirepass, or user default off in its ACL."),
        (used > REDIS_MEMORY_FAIL, FAIL, *memory),
        (policy != "noeviction", WARN, f"it forgets wake-ups ({policy})", "Set maxmemory-policy noeviction."),
        (not is_persistent, WARN, "it loses wake-ups and limits when it ends", "Set appendonly yes."),
        (used > REDIS_MEMORY_WARN, WARN, *memory),
    )


def _is_redis_open() -> bool:
    """Whether the Redis of an installation in production answers clients that do not know its password."""
    address = urlsplit(setting("REDIS_URL"))
    if setting("APP_ENV") != "production" or not address.password:
        return False
    without_login = setting("REDIS_URL").replace(f"{address.netloc.rpartition('@')[0]}@", "", 1)
    try:
        with redis.Redis.from_url(without_login, socket_timeout=2, socket_connect_timeout=2) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def check_limits_redis() -> Finding:
    """Whether limits can be counted where LIMITS_REDIS_URL says; without it each process limits on its own."""
    problems = diagnosis.find_problems(setting("LIMITS_REDIS_URL"))
    if problems:
        return Finding("Redis of the limits", FAIL, "; ".join(problems), "Look at LIMITS_REDIS_URL.")
    return Finding("Redis of the limits", OK, f"{redis_url.parse(setting('LIMITS_REDIS_URL')).name} answers")


def check_disk() -> Iterator[Finding]:
    """Free space in the directories of the instance and of its engines."""
    path = Path(setting("INSTANCE"))
    directories = {"disk": path}
    has_engines = instance.embedded_engines(path, setting("DATABASE_URL"), setting("REDIS_URL"))
    if has_engines and instance.engine_directory(path) != path:
        directories["disk of the engines"] = instance.engine_directory(path)
    for name, directory in directories.items():
        existing = next(parent for parent in (directory, *directory.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        text = f"{free / 1e9:.1f} GB free in {existing}"
        yield _first_problem(
            name,
            text,
            (free < DISK_FAIL_BYTES, FAIL, text, "Make room; PostgreSQL stops when there is none."),
            (free < DISK_WARN_BYTES, WARN, text, "Make room before it is gone."),
        )


def _first_problem(name: str, what: str, *problems: tuple[bool, str, str, str]) -> Finding:
    """The finding of the first problem that exists, or one with the state OK.

    what: text of the finding without a problem
    problems: (whether it exists, state, text, remedy) of each
    """
    for exists, state, text, remedy in problems:
        if exists:
            return Finding(name, state, text, remedy)
    return Finding(name, OK, what)


def _start_hint(in_development: str, in_production: str) -> str:
    """A remedy, which names make run in development only."""
    return in_production if setting("APP_ENV") == "production" else in_development
