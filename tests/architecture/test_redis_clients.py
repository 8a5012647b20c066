"""Which Redis each module asks: the one of the queue, or where limits are counted."""

import re

from tests.architecture.source import ROOT

CLIENT = re.compile(
    r"\b(Redis\(|Redis\.from_url\(|ConnectionPool\.from_url\(|SentinelConnectionPool\(|low_latency_pool\(|worker_redis\(|fast_redis\()"
)
OF_LIMITS = {
    "core/limits/backends.py",
    "core/limits/cluster.py",
    "core/limits/diagnosis.py",
    "core/limits/direct_connections.py",  # of the queue, too: it knows no address
    "core/limits/sentinel.py",
}
OF_QUEUE = {
    "admin/queues.py",
    "admin/system.py",
    "cli/commands/doctor.py",
    "cli/commands/scheduler.py",
    "cli/commands/up.py",
    "cli/commands/worker.py",
    "core/jobs/queue.py",
    "core/web/forms.py",  # results of operators' forms
    "ops/status.py",
}
OF_EMBEDDED = {"cli/commands/engines.py", "cli/dev/servers.py"}


def modules_with(pattern: re.Pattern[str]) -> set[str]:
    package = ROOT / "saas_api"
    files = package.rglob("*.py")
    return {str(file.relative_to(package)) for file in files if pattern.search(file.read_text(encoding="utf-8"))}


def test_each_module_that_makes_a_client_is_of_the_queue_or_of_the_limits() -> None:
    assert modules_with(CLIENT) == OF_LIMITS | OF_QUEUE | OF_EMBEDDED


def test_no_module_of_the_limits_reads_the_address_of_the_queue() -> None:
    readers = modules_with(re.compile(r'"REDIS_URL"'))
    # limiter.py compares both, to tell whether there is anything to ask
    assert {reader for reader in readers if reader.startswith("core/limits/")} == {"core/limits/limiter.py"}
