"""What a load needs, computed from bench/results/latest.json; `python -m bench.capacity` prints the tables.

`bench.tables` writes them into docs/capacity.md. Nothing is measured here; what was not measured raises KeyError.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from bench import report

Results = Mapping[str, Any]

ORGANIZATIONS = 10_000
PEAK_TO_MEAN = 5
BUSY = 0.6
"""Share of a core that is planned to be used in the busiest minute."""
CONNECTIONS_PER_PROCESS = 32
_DAYS = 30


@dataclass(frozen=True)
class Load:
    """Ten million things in a time.

    per_second: on average
    """

    name: str
    per_second: float

    @property
    def peak(self) -> float:
        """A second in the busiest minute of the day."""
        return self.per_second * PEAK_TO_MEAN

    @property
    def per_month(self) -> float:
        """In thirty days."""
        return self.per_second * 86_400 * _DAYS


LOADS = (Load("10 million a month", 1e7 / 86_400 / _DAYS), Load("10 million a day", 1e7 / 86_400))


@dataclass(frozen=True)
class Cost:
    """Microseconds of CPU of one thing."""

    name: str
    web_us: float
    worker_us: float
    database_us: float
    redis_us: float


def costs(results: Results) -> list[Cost]:
    """Costs by the way in which usage reaches the product."""
    [send] = [row for row in results["send"]["peak"] if (row["variant"], row["connections"]) == ("product", 16)]
    [record] = [row for row in results["verify"]["calls"] if row["variant"] == "verify and record"]
    [webhook] = [row for row in results["webhooks"]["measurements"] if row["scenario"] == "ten endpoints"]
    events = results["events"]
    return [
        Cost("events in batches of 1,000", events["web_us"], 0, events["database_us"], 0),
        Cost("calls that a service verifies and records", *_medians(record)),
        Cost("accepted sends, without their delivery", *_medians(send)),
        Cost("webhooks", 0, webhook["worker_us"], webhook["database_us"], 0),
    ]


def _medians(row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    return row["web_us"][1], 0, row["database_us"][1], row["redis_us"][1]


def cores(results: Results) -> str:
    """Cores in the busiest minute, processes and connections."""
    header = ("what", "load", "a second", "cores of the web", "of workers", "of PostgreSQL", "of Redis", "processes")
    return report.table((*header, "connections at most"), [row for cost in costs(results) for row in _cores_of(cost)])


def _cores_of(cost: Cost) -> Iterator[tuple[Any, ...]]:
    for load in LOADS:
        web, worker, database, server = (
            load.peak * microseconds / 1e6 / BUSY
            for microseconds in (cost.web_us, cost.worker_us, cost.database_us, cost.redis_us)
        )
        processes = max(2, math.ceil(web + worker))
        figures = (f"{value:,.2f}" if value else "" for value in (web, worker, database, server))
        connections = processes * CONNECTIONS_PER_PROCESS
        yield cost.name, load.name, f"{load.peak:,.0f}", *figures, processes, connections


def disks(results: Results) -> str:
    """Bytes in PostgreSQL, of its log and of backups."""
    stored = {row["name"]: row for row in results["storage"]["measurements"]}
    rows = []
    for name, row in stored.items():
        for load in LOADS:
            tables = sum(row["tables"].values()) * load.per_month / 1e9
            log = row["log"] * load.per_second * 86_400 / 1e9
            backup = row["backup"] * load.per_month / 1e9
            rows.append((f"{name}s", load.name, *(f"{value:,.1f}" for value in (tables, log, backup))))
    header = ("what", "load", "GB in PostgreSQL for a month", "GB of log a day", "GB of backup for a month")
    return report.table(header, rows)


def organizations(results: Results) -> str:
    """What depends on the number of organizations."""
    month, memory = results["month"], {row["name"]: row for row in results["memory"]["processes"]}
    closing = ORGANIZATIONS / month["organizations_per_second"]
    cpu = ORGANIZATIONS * (month["worker_ms"] + month["database_ms"]) / 1e3
    web = memory["web child"]["after_load_mib"]
    rows = [
        ("close and invoice a month, one worker", f"{closing:,.0f} s"),
        ("CPU of it, of worker and PostgreSQL", f"{cpu:,.0f} s"),
        ("memory of Redis, one used key each", f"{ORGANIZATIONS * results['storage']['redis_bytes'] / 1e6:,.0f} MB"),
        ("memory of a web process", f"{web:,.0f} MiB"),
        ("memory of a worker process", f"{memory['worker child']['after_load_mib']:,.0f} MiB"),
    ]
    return report.table((f"for {ORGANIZATIONS:,} organizations", ""), rows)


def bytes_of_one(results: Results) -> str:
    """What one message, usage event and webhook take."""
    rows = [
        (
            row["name"],
            f"{sum(row['tables'].values()):,}",
            ", ".join(f"{table} {size:,}" for table, size in row["tables"].items()),
            f"{row['log']:,}",
            f"{row['backup']:,}",
        )
        for row in results["storage"]["measurements"]
    ]
    header = ("one", "bytes in PostgreSQL, with indexes", "of which", "bytes of its log", "bytes of a backup")
    return report.table(header, rows)


BLOCKS = {"cores": cores, "disks": disks, "organizations": organizations, "bytes": bytes_of_one}

if __name__ == "__main__":
    for calculate in BLOCKS.values():
        click.echo(f"{calculate(report.read_results())}\n")
