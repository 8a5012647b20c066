"""What PostgreSQL knows about the work of all processes, as metrics for Prometheus."""

from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from saas_api.core import clock
from saas_api.core.db import cells, engine, partitions, tenancy
from saas_api.core.db.replica import Replica
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.jobs import schedule
from saas_api.core.limits import limiter
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.ops import status

log = get_logger(__name__)

MAX_COUNTED_ROWS = 100_000
_OUTBOXES = {
    "messages": "messages",
    "webhooks": "webhook_deliveries",
    "mails": "mails",
    "payment_events": "provider_events",
}
_BACKLOG = " UNION ALL ".join(
    f"""SELECT '{name}' AS name, count(*) AS due,
  coalesce(extract(epoch FROM now() - min(next_at)), 0)::float8 AS seconds
FROM (SELECT next_at FROM {table} WHERE status IN ('queued', 'sending') AND next_at < now()
  LIMIT {MAX_COUNTED_ROWS}) due"""
    for name, table in _OUTBOXES.items()
)
_BILLING_LAG = """SELECT coalesce(extract(epoch FROM now() - min(ends_at)), 0)::float8 AS seconds
FROM billing_periods WHERE state <> 'invoiced' AND ends_at < now()"""
_STANDINGS = "SELECT standing AS name, count(*) AS value FROM subscriptions GROUP BY 1"
_VIOLATIONS = (
    "SELECT DISTINCT ON (check_name) check_name AS name, violations AS value FROM invariant_results ORDER BY 1, at DESC"
)
_JOBS = """SELECT name, extract(epoch FROM now() - success.finished_at)::float8 AS age, failures
  FROM unnest(CAST(:names AS text[])) name
  LEFT JOIN LATERAL (SELECT scheduled_for, finished_at FROM job_runs WHERE job = name AND state = 'done'
    ORDER BY scheduled_for DESC LIMIT 1) success ON true
  CROSS JOIN LATERAL (SELECT coalesce(sum(attempts - (state = 'running')::int), 0) AS failures FROM job_runs
    WHERE job = name AND scheduled_for > coalesce(success.scheduled_for, '-infinity')) since"""
_LABEL_OF_COUNTER = {
    "interruptions_total": "outbox",
    "lease_lost_total": "outbox",
    "messages_finished_total": "status",
    "webhook_attempts_total": "outcome",
}


class DatabaseMetrics(Collector):
    """Metrics of one scrape; without PostgreSQL the scrape has what the process itself knows."""

    def collect(self) -> Iterator[Metric]:
        yield _gauge("saas_build_info", "Version and commit.", ("version", "revision"), [(_build(), 1)])
        yield _gauge("saas_redis_up", "Whether Redis answers within 50 ms.", (), [((), status.is_redis_ready())])
        if replica := engine.find_replica():
            yield from _measure_replica(replica)
        limits_servers = [((server,), is_up) for server, is_up in limiter.find_own_servers().items()]
        help_text = "Whether each server of LIMITS_REDIS_URL answers within 50 ms."
        yield _gauge("saas_limits_redis_up", help_text, ("server",), limits_servers)
        families: dict[str, Metric] = {}
        for cell in cells.names():
            with cells.use(cell):
                for metric in _read_cell():
                    _add_samples(families.setdefault(metric.name, metric), metric)
        yield from families.values()


def _read_cell() -> Iterator[Metric]:
    """The metrics of the current cell."""
    try:
        with tenancy.system_session("ops.metrics") as session:
            metrics = list(_read_metrics(session))
    except SQLAlchemyError as error:
        log.warning("metrics_without_database", kind=type(error).__name__)
        metrics = []
    yield _gauge("saas_database_up", "Whether PostgreSQL answered.", (), [((), bool(metrics))])
    yield from metrics


def _add_samples(family: Metric, metric: Metric) -> None:
    """Add the samples of the current cell to those of the others; with several cells each names its own."""
    if not cells.are_several():
        return
    cell = cells.display_name(cells.current())
    samples = [sample._replace(labels={**sample.labels, "cell": cell}) for sample in metric.samples]
    family.samples = samples if family is metric else [*family.samples, *samples]


def _measure_replica(replica: Replica) -> Iterator[Metric]:
    try:
        state = replica.measure()
    except SQLAlchemyError:
        state = None
    is_up = state is not None and state.problem is None
    yield _gauge("saas_replica_up", "Whether the replica can be read.", (), [((), is_up)])
    if state is not None and state.lag_seconds is not None:
        samples = [((), state.lag_seconds)]
        yield _gauge("saas_replica_lag_seconds", "Age of what the replica has, 0 if it has all.", (), samples)


def _read_metrics(session: SystemSession) -> Iterator[Metric]:
    backlog = session.execute(text(_BACKLOG)).all()
    help_text = f"Rows that are due, up to {MAX_COUNTED_ROWS}."
    yield _gauge("saas_outbox_due", help_text, ("outbox",), [((row.name,), row.due) for row in backlog])
    ages = [((row.name,), max(row.seconds, 0)) for row in backlog]
    yield _gauge("saas_outbox_oldest_due_seconds", "For how long the oldest due row waits.", ("outbox",), ages)
    lag = session.execute(text(_BILLING_LAG)).scalar_one()
    yield _gauge("saas_billing_lag_seconds", "Since when the oldest ended period has no invoice.", (), [((), lag)])
    for name, documentation, label, sql in (
        ("saas_organizations", "Organizations by billing standing.", "standing", _STANDINGS),
        ("saas_invariant_violations", "Violations that the last run of a check found.", "check", _VIOLATIONS),
    ):
        rows = session.execute(text(sql)).all()
        yield _gauge(name, documentation, (label,), [((row.name,), row.value) for row in rows])
    yield from _measure_jobs(session)
    for name, documentation, counts in (
        (
            "saas_partition_months_ahead",
            "Months after this one that have a partition.",
            partitions.count_months_ahead(session, clock.now().date()),
        ),
        (
            "saas_partition_stray_rows",
            f"Rows whose month has no partition, up to {partitions.MAX_COUNTED_ROWS}.",
            partitions.count_stray_rows(session),
        ),
    ):
        yield _gauge(name, documentation, ("table",), [((table,), count) for table, count in counts.items()])
    counted = session.execute(text("SELECT name, labels, value FROM delivery_counters ORDER BY 1, 2")).all()
    for counter in dict.fromkeys(row.name for row in counted):
        label = _LABEL_OF_COUNTER.get(counter, "label")
        family = CounterMetricFamily(f"saas_{counter}", "Counted by workers since the installation.", labels=(label,))
        for row in counted:
            if row.name == counter:
                family.add_metric((row.labels,), row.value)
        yield family


def _measure_jobs(session: SystemSession) -> Iterator[Metric]:
    """When each scheduled job last succeeded, and how often it failed or was killed since then."""
    rows = session.execute(text(_JOBS), {"names": [job.job for job in schedule.scheduled_jobs()]}).all()
    ages = [((row.name,), row.age) for row in rows if row.age is not None]
    yield _gauge("saas_job_age_seconds", "Time since a scheduled job last succeeded.", ("job",), ages)
    failures = [((row.name,), row.failures) for row in rows]
    help_text = "Attempts of a scheduled job that failed since it last succeeded."
    yield _gauge("saas_job_consecutive_failures", help_text, ("job",), failures)


def _gauge(
    name: str, documentation: str, labels: Sequence[str], samples: Sequence[tuple[Sequence[str], Any]]
) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for label_values, value in samples:
        family.add_metric(label_values, float(value))
    return family


def _build() -> tuple[str, str]:
    return setting("VERSION"), setting("REVISION") or ""
