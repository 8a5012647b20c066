"""Benchmark of reads and of the close of a period, with 100,000 and with 10,000,000 usage events of one organization.

Both organizations are in one database and read in turn, so that a busy machine slows both. Each has changed its plan
twice within the period and has late usage in it. BENCH_EVENTS sets another number of events for the large one.
"""

import contextlib
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import redis
from flask import Flask
from sqlalchemy import text

from bench import consumption, report
from bench.application import running_application
from saas_api.accounts.audit import SYSTEM_ACTOR
from saas_api.billing import alerts, bill_inputs, period_close, periods, subscriptions
from saas_api.billing.models import BillingPeriod
from saas_api.cli.dev.engines import Engines
from saas_api.core import clock, ids
from saas_api.core.db import tenancy
from saas_api.usage import meters, rollups
from tests.support.accounts import User, create_key, sign_in, sign_up
from tests.support.billing import BillingOrganization
from tests.support.ledger import USAGE_COLUMNS, append_sql
from tests.support.pages import Browser

SMALL = 100_000
LARGE = int(os.environ.get("BENCH_EVENTS", "10000000"))
MAX_RATIO, MAX_MILLISECONDS = 1.5, 30
MAX_JOB_SECONDS = {"usage.roll_up": 1, "billing.alerts": 1, "billing close": 60}
ROUNDS, WARM_UP_ROUNDS = 15, 2
NEW_EVENTS = 30_000
"""Events of a minute, which the jobs of the minute work on."""
BATCH, WRITERS = 100_000, 4
PAGES = ("/dashboard", "/dashboard/live", "/dashboard/usage", "/dashboard/usage?mode=test", "/dashboard/billing")
PATHS = (
    *("/billing/calculate", "/billing/alerts", "/billing/subscription", "/billing/history", "/billing/plans"),
    *("/usage", "/usage?mode=test", "/usage/timeseries", "/usage/timeseries?group_by=key"),
    *("/dashboard/stats", "/dashboard/usage-graph", "/dashboard/api-keys"),
    *("/messages", "/messages?to=%2B4741234567", "/messages?mode=test", "/messages?status=failed"),
)
_METER = {"code": "tokens", "name": "Tokens", "unit": "token", "aggregation": "sum", "dimensions": ["model"]}
# Seven tenths SMS, two tenths email and one tenth tokens of five models; one event of a hundred is late.
_FILL_EVENTS = append_sql(
    f"{USAGE_COLUMNS}, id, api_key_id, properties, late_for_period_id",
    """
SELECT %(organization)s, 'messages.send', uuidv7()::text,
  CASE WHEN n %% 10 < 7 THEN 'sms' WHEN n %% 10 < 9 THEN 'email' ELSE 'tokens' END,
  1 + n %% 3, CASE n %% 100 WHEN 50 THEN late.starts_at + n * (late.ends_at - late.starts_at) / %(events)s
    ELSE paying.starts_at + n * (%(until)s - paying.starts_at) / %(events)s END,
  paying.id, uuidv7(), %(key)s,
  CASE n %% 10 WHEN 9 THEN jsonb_build_object('model', 'model-' || n / 10 %% 5) ELSE '{}' END,
  CASE n %% 100 WHEN 50 THEN late.id END, paying.month
FROM generate_series(%(first)s, %(last)s) AS n, billing_periods paying, billing_periods late
WHERE paying.organization_id = %(organization)s AND paying.id = %(period)s AND late.organization_id = %(organization)s
  AND late.seq = paying.seq - 1""",
)
# A message for ten events. One of ten thousand is of a test key, one failed, and one goes to the number looked for.
_FILL_MESSAGES = """
INSERT INTO messages (organization_id, id, api_key_id, mode, channel, recipient, body, status, accepted_at, finished_at,
  currency)
SELECT %(organization)s, uuidv7(), %(key)s, CASE n %% 100000 WHEN 10 THEN 'test' ELSE 'live' END, 'sms',
  CASE n %% 100000 WHEN 20 THEN '+4741234567' ELSE '+47' || 42000000 + n END, 'Your code is ' || n,
  CASE n %% 100000 WHEN 30 THEN 'failed' ELSE 'delivered' END, at, at, 'USD'
FROM generate_series(%(first)s, %(last)s, 10) AS n, billing_periods p,
  LATERAL (SELECT p.starts_at + n * (%(until)s - p.starts_at) / %(events)s) t (at)
WHERE p.organization_id = %(organization)s AND p.id = %(period)s"""
_FILL_TESTS = """
INSERT INTO test_usage_events (organization_id, id, source, idempotency_key, meter_code, quantity, occurred_at)
SELECT %(organization)s, uuidv7(), 'messages.send', uuidv7()::text, 'sms', 1, %(until)s - n * interval '1 minute'
FROM generate_series(1, 1000) AS n"""


@dataclass
class Tenant:
    """An organization with many events.

    times: seconds of each read, by its name
    cpu_seconds: of all its reads together, the processes of PostgreSQL included
    """

    name: str
    events: int
    user: User
    browser: Browser
    key_id: UUID
    times: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def billing(self) -> BillingOrganization:
        return BillingOrganization(ids.parse_id("org", self.user.organization_id))


def run(_seconds: float, _connections: int) -> dict[str, Any]:
    """Read as both organizations, run the jobs of a minute, close the period, and print tables.

    raises: RuntimeError if the invoice is not exact
    """
    settings = {"APP_URL": "http://localhost", "DEFAULT_SPEND_CAP": "none", "RATE_LIMIT_PER_MINUTE": 1_000_000}
    steps = 2 * (-(-SMALL // BATCH) + -(-LARGE // BATCH)) + WARM_UP_ROUNDS + ROUNDS + 4
    with running_application(**settings) as app, report.progress("Reads", steps) as progress:
        tenants = [_create_tenant(app, name, count) for name, count in (("Small", SMALL), ("Large", LARGE))]
        for tenant in tenants:
            _fill(app, tenant, progress)
        progress.update(1, "rollups")
        rebuild_seconds = _rebuild(app)
        for tenant in tenants:  # the tokens of the sign-up have expired meanwhile
            tenant.user = sign_in(app.test_client(), tenant.user.email)
            tenant.browser = Browser(app, tenant.user)
        for number in range(WARM_UP_ROUNDS + ROUNDS):
            progress.update(1, f"round {number + 1}")
            for tenant in tenants:
                _read_all(app, tenant, is_counted=number >= WARM_UP_ROUNDS)
        results = {"events": LARGE, "reads": _report_reads(*tenants)}
        jobs = _run_jobs(app, tenants[1], progress)
        progress.update(1, "close")
        jobs |= {"billing close": _close(app, tenants[1]), "first usage.roll_up": rebuild_seconds}
    _report_jobs(jobs)
    return {**results, "job_seconds": jobs}


def _create_tenant(app: Flask, name: str, count: int) -> Tenant:
    """An organization whose current period began some twenty days ago, and whose period before is invoiced."""
    client = app.test_client()
    email = f"alice@{name.lower()}.example"
    user = sign_up(client, email, name)
    organization = BillingOrganization(ids.parse_id("org", user.organization_id))
    now = datetime.now(UTC)
    with app.app_context():
        meters.publish_meter(_METER, SYSTEM_ACTOR)
        with tenancy.system_session("demo.seed") as session:
            session.execute(
                text("UPDATE organizations SET created_at = :at WHERE id = :id"),
                {"at": now - timedelta(days=60), "id": organization.id},
            )
        with organization.transaction() as session:
            periods.ensure_account(session, organization.id)
        with tenancy.system_session("billing.close") as session:
            periods.lock_periods(session, organization.id)
            anchor_day = min((now - timedelta(days=20)).day, 28)
            periods.set_anchor_day(session, organization.id, anchor_day, now - timedelta(days=59))
            periods.ensure_period(session, organization.id, now)
        period_close.close_due(clock.now(), organization.id)
        starts_at = organization.rows("SELECT max(starts_at) FROM billing_periods WHERE starts_at <= now()")[0][0]
        organization.switch("starter@1", starts_at)
        organization.switch("pro@1", starts_at + (now - starts_at) / 3)
        organization.switch("scale@1", starts_at + (now - starts_at) / 2)
    key_id, _ = create_key(client, user)
    return Tenant(name, count, user, Browser(app, user), ids.parse_id("key", key_id))


def _fill(app: Flask, tenant: Tenant, progress: report.Progress) -> None:
    """Write events and messages past triggers and foreign keys, in transactions of BATCH rows."""
    values = _values(app, tenant, datetime.now(UTC) - timedelta(minutes=5), tenant.events)
    batches = [
        (statement, first) for statement in (_FILL_EVENTS, _FILL_MESSAGES) for first in range(0, tenant.events, BATCH)
    ]

    def fill(batch: tuple[str, int]) -> None:
        statement, first = batch
        _execute(app, statement, {**values, "first": first, "last": first + BATCH - 1})

    with ThreadPoolExecutor(WRITERS) as writers:
        for _ in writers.map(fill, batches):
            progress.update(1, f"{BATCH:,} rows of {tenant.name}")
    _execute(app, _FILL_TESTS, values)


def _values(app: Flask, tenant: Tenant, until: datetime, events: int) -> dict[str, Any]:
    with app.app_context():
        [(period_id,)] = tenant.billing.rows(
            "SELECT id FROM billing_periods WHERE starts_at <= now() AND ends_at > now()"
        )
    owner = {"organization": str(tenant.billing.id), "period": str(period_id), "key": str(tenant.key_id)}
    return {**owner, "until": until, "events": events}


def _superuser(app: Flask) -> Any:
    return Engines(Path(app.config["INSTANCE"])).postgres.superuser("saas")


def _execute(app: Flask, statement: str, values: dict[str, Any]) -> None:
    with contextlib.closing(_superuser(app)) as superuser, superuser, superuser.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement, values)


def _rebuild(app: Flask) -> float:
    """Fill the rollups as the first run of the job does; returns its seconds."""
    with contextlib.closing(_superuser(app)) as superuser:
        superuser.autocommit = True
        cursor = superuser.cursor()
        cursor.execute("VACUUM (ANALYZE) usage_events, messages, test_usage_events")
        with app.app_context():
            seconds = _timed(rollups.roll_up)
        cursor.execute("VACUUM (ANALYZE) usage_rollups")
    return seconds


def _timed(call: Callable[[], Any]) -> float:
    started_at = time.perf_counter()
    call()
    return time.perf_counter() - started_at


def _read_all(app: Flask, tenant: Tenant, *, is_counted: bool) -> None:
    postgres, own = consumption.Engines(app).postgres, psutil.Process()
    with redis.Redis.from_url(app.config["REDIS_URL"]) as limits:
        limits.flushdb()  # the benchmark reads more in a minute than the limits of pages allow
    for name, read in _reads(app, tenant).items():
        before = consumption.tree_seconds(postgres), sum(own.cpu_times()[:2])
        seconds = _timed(read)
        own_seconds = sum(own.cpu_times()[:2]) - before[1]
        if is_counted:
            tenant.times[name].append(seconds)
            tenant.cpu_seconds[name] += own_seconds + consumption.tree_seconds(postgres) - before[0]


def _reads(app: Flask, tenant: Tenant) -> dict[str, Callable[[], None]]:
    client = app.test_client()

    def api(path: str) -> Callable[[], None]:
        return lambda: _check(path, client.get(f"/api/v1{path}", headers=tenant.user.headers))

    def page(path: str) -> Callable[[], None]:
        return lambda: _check(path, tenant.browser.client.get(path))

    return {f"GET {path}": api(path) for path in PATHS} | {f"page {path}": page(path) for path in PAGES}


def _check(path: str, response: Any) -> None:
    if response.status_code != 200:
        raise RuntimeError(f"{path}: {response.status} {response.get_data(as_text=True)[:300]}")


def _run_jobs(app: Flask, tenant: Tenant, progress: report.Progress) -> dict[str, float]:
    """Seconds of the jobs of a minute in which the large organization used NEW_EVENTS."""
    values = _values(app, tenant, datetime.now(UTC), NEW_EVENTS)
    _execute(app, _FILL_EVENTS, {**values, "first": 0, "last": NEW_EVENTS - 1})
    with app.app_context():
        progress.update(1, "job usage.roll_up")
        roll_up_seconds = _timed(rollups.roll_up)
        progress.update(1, "job billing.alerts")
        alert_seconds = _timed(lambda: alerts.evaluate_alerts(clock.now()))
    return {"usage.roll_up": roll_up_seconds, "billing.alerts": alert_seconds}


def _close(app: Flask, tenant: Tenant) -> float:
    """Close the current period by the command, and compare the invoice with rollups and ledger; returns the seconds."""
    organization = tenant.billing
    expected = _expected_quantities(app, organization)
    with app.app_context(), organization.transaction() as session:
        period = session.query(BillingPeriod).where(BillingPeriod.ends_at > clock.now()).order_by("seq").first()
        if period is None:
            raise RuntimeError("no period is open")
        live = bill_inputs.get_live_usage(session, period, subscriptions.list_segments(session, organization.id))
    started_at = time.perf_counter()
    command = ["billing", "close", "--now", "--organization", tenant.user.organization_id]
    outcome = app.test_cli_runner().invoke(args=command)
    seconds = time.perf_counter() - started_at
    if outcome.exit_code != 0:
        raise RuntimeError(outcome.output)
    with app.app_context():
        rows = organization.rows("""SELECT plan_version_id, meter_code, late_for_period_id IS NOT NULL, quantity
          FROM invoice_lines WHERE kind IN ('usage', 'late_usage') AND invoice_id = (
            SELECT id FROM invoices ORDER BY created_at DESC LIMIT 1)""")
    billed = {(version, meter, is_late): quantity for version, meter, is_late, quantity in rows}
    shown = {(one.version_id, one.meter, False): one.quantity for one in live.used}
    shown |= {(one.version_id, one.meter, True): one.quantity for late in live.late for one in late.quantities}
    if not billed == shown == expected:
        raise RuntimeError(f"the ledger has {expected},\nrollups have {shown},\nthe invoice has {billed}")
    return seconds


def _expected_quantities(app: Flask, organization: BillingOrganization) -> dict[tuple[str, str, bool], Decimal]:
    with app.app_context(), organization.transaction() as session:
        session.execute(text("SET LOCAL statement_timeout = 0"))
        rows = session.execute(
            text("""SELECT s.plan_version_id, e.meter_code, e.late_for_period_id IS NOT NULL, sum(e.quantity)
              FROM usage_events e JOIN subscription_segments s ON s.starts_at <= e.occurred_at
                AND (s.ends_at IS NULL OR s.ends_at > e.occurred_at) GROUP BY 1, 2, 3""")
        ).all()
    return {(version, meter, is_late): quantity for version, meter, is_late, quantity in rows}


def _report_reads(small: Tenant, large: Tenant) -> dict[str, Any]:
    results, rows = {}, []
    for name, times in large.times.items():
        pairs = list(zip(small.times[name], times, strict=True))
        figures = {
            "small_ms": 1000 * statistics.median(before for before, _ in pairs),
            "large_ms": 1000 * statistics.median(times),
            "large_min_ms": 1000 * min(times),
            "large_max_ms": 1000 * max(times),
            "small_cpu_ms": 1000 * small.cpu_seconds[name] / len(times),
            "large_cpu_ms": 1000 * large.cpu_seconds[name] / len(times),
        }
        ratio = statistics.median(after / before for before, after in pairs)
        missed = [
            *(["ratio"] if ratio > MAX_RATIO else []),
            *(["time"] if figures["large_ms"] > MAX_MILLISECONDS else []),
        ]
        rows.append([name, *(f"{one:.1f}" for one in figures.values()), f"{ratio:.2f}", " ".join(missed)])
        results[name] = {key: round(one, 1) for key, one in figures.items()} | {"ratio": round(ratio, 2)}
    names = (
        f"ms at {SMALL:,}",
        f"ms at {LARGE:,}",
        "min",
        "max",
        f"CPU ms at {SMALL:,}",
        f"at {LARGE:,}",
        "ratio of ms",
    )
    report.print_table(("read", *names, "missed"), rows)
    return results


def _report_jobs(jobs: dict[str, float]) -> None:
    rows = []
    for name, seconds in jobs.items():
        limit = MAX_JOB_SECONDS.get(name)
        rows.append([name, f"{seconds:.2f}", "time" if limit and seconds > limit else ""])
    report.print_table(("job", f"s at {LARGE:,}", "missed"), rows)
