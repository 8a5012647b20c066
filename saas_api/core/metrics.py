"""Metrics of the web processes, for Prometheus; `ops.metrics` adds those that PostgreSQL has.

Every metric has labels: its values are created at its first use, when the processes are known to share theirs.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, multiprocess, values
from prometheus_client.registry import Collector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

_registry = CollectorRegistry()
REQUESTS = Counter("saas_http_requests", "Finished requests.", ("method", "route", "status"), registry=_registry)
REQUEST_SECONDS = Histogram(
    "saas_http_request_seconds",
    "Time of requests in the application.",
    ("route",),
    buckets=_SECONDS,
    registry=_registry,
)
REFUSALS = Counter("saas_refusals", "Responses with an error, by its code.", ("code",), registry=_registry)
LIMIT_SECONDS = Histogram(
    "saas_limit_seconds", "Time of decisions about limits.", ("place",), buckets=_SECONDS, registry=_registry
)
DATABASE_FAILURES = Counter(
    "saas_database_failures", "Requests that got no connection or lost it.", ("kind",), registry=_registry
)
REPLICA_READS = Counter(
    "saas_replica_reads",
    "Pages, reports and exports by the place that was read, where there is a replica.",
    ("place",),
    registry=_registry,
)
REPLICA_FAILURES = Counter(
    "saas_replica_failures", "Reads from the replica that were repeated at the primary.", ("kind",), registry=_registry
)
REDIS_FAILURES = Counter(
    "saas_redis_failures",
    "Calls of limits and wake-ups that Redis did not answer.",
    ("server", "kind"),
    registry=_registry,
)


def share_between_processes() -> None:
    """Let the processes that this one starts keep their values in files, all of which each of them reads."""
    os.environ[_DIRECTORY] = tempfile.mkdtemp(prefix="saas-metrics-")
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]  # of the library


def delete_shared_values() -> None:
    """Delete the files of `share_between_processes`, when no process uses them any more."""
    shutil.rmtree(os.environ.pop(_DIRECTORY), ignore_errors=True)


def render(collector: Collector) -> tuple[bytes, str]:
    """All metrics as text, and its media type.

    collector: of further metrics
    """
    registry = CollectorRegistry()
    if _DIRECTORY in os.environ:
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # of the library
    else:
        registry.register(_OwnValues())
    registry.register(collector)
    return prometheus_client.generate_latest(registry), prometheus_client.CONTENT_TYPE_LATEST


class _OwnValues(Collector):
    """The metrics of this process alone."""

    def collect(self) -> Iterator[Metric]:
        yield from _registry.collect()
