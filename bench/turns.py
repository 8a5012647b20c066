"""Variants of a call that are measured in turn, so that a busy machine disturbs all of them alike."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench import load, report
from bench.consumption import Consumption, Engines
from bench.load import Call, Load

ROUNDS = 5
_WARM_UP_SECONDS, _WARM_UP_CONNECTIONS = 2, 16
_GROUPS = ("web", "database", "redis", "load")


@dataclass(frozen=True)
class Measurement:
    """One load on one variant.

    p50_ms, p99_ms: time to the answer
    *_us: microseconds of CPU for one request, of the processes of each group
    """

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    web_us: float
    database_us: float
    redis_us: float
    load_us: float

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU of everything but the load generator."""
        return self.web_us + self.database_us + self.redis_us

    @property
    def p99_to_p50(self) -> float:
        return self.p99_ms / self.p50_ms

    @classmethod
    def of(cls, counted: Load, consumed: Consumption) -> "Measurement":
        """Relate what was consumed to what was answered."""
        million = 1e6 / counted.requests
        return cls(
            requests=counted.requests,
            per_second=counted.per_second,
            p50_ms=counted.p50_ms,
            p99_ms=counted.p99_ms,
            web_us=consumed.web_seconds * million,
            database_us=consumed.database_seconds * million,
            redis_us=consumed.redis_seconds * million,
            load_us=counted.cpu_seconds * million,
        )


Measurements = dict[tuple[str, int], list[Measurement]]
"""Rounds by variant and number of connections."""


@dataclass(frozen=True)
class Variant:
    """A call.

    count_rows: of each table in which every answer with 2xx has left one row
    """

    call: Call
    count_rows: Callable[[], Sequence[int]] = tuple


class Turns:
    """Variants that are served on the same engines.

    accepted: answers with 2xx by variant
    """

    def __init__(self, name: str, engines: Engines, variants: Mapping[str, Variant]) -> None:
        self.name = name
        self.engines = engines
        self.variants = variants
        self.accepted = dict.fromkeys(variants, 0)

    def warm_up(self) -> None:
        """Send every variant once for a moment."""
        with report.progress(f"{self.name}, warm-up", len(self.variants)) as bar:
            for name in self.variants:
                bar.update(1, name)
                self._measure(name, _WARM_UP_SECONDS, _WARM_UP_CONNECTIONS)

    def measure(
        self, seconds: float, connections: Sequence[int], rates: Mapping[str, float] | None = None
    ) -> Measurements:
        """Send each variant for some seconds with each number of connections, divided into rounds.

        rates: requests a second by variant; without it as many as are answered
        """
        measurements = defaultdict(list)
        turns = [(name, count) for count in connections for _ in range(ROUNDS) for name in self.variants]
        with report.progress(self.name, len(turns)) as bar:
            for name, count in turns:
                rate = rates[name] if rates else 0
                bar.update(1, f"{name}, {rate:.0f} requests/s" if rates else f"{name}, {count} connections")
                measurements[name, count].append(self._measure(name, seconds / ROUNDS, count, rate))
        return measurements

    def _measure(self, name: str, seconds: float, connections: int, rate: float = 0) -> Measurement:
        call = self.variants[name].call
        before = self.engines.read_with(call.server)
        counted = load.send(call, seconds, connections, rate)
        consumed = self.engines.read_with(call.server) - before
        self.accepted[name] += counted.requests
        return Measurement.of(counted, consumed)

    def check_rows(self) -> None:
        """Compare the rows with the answers.

        raises: RuntimeError unless each answer with 2xx left exactly one row in each table
        """
        for name, variant in self.variants.items():
            rows = variant.count_rows()
            if not {*rows} <= {self.accepted[name]}:
                raise RuntimeError(f"{name}: {self.accepted[name]} answers left {' and '.join(map(str, rows))} rows")


def summarize(measurements: Measurements) -> list[dict[str, Any]]:
    """Minimum, median and maximum of each figure by variant and number of connections.

    rate_to, cpu_to: requests/s and CPU as multiples of those of another variant in the same round
    """
    summaries = []
    for (name, connections), rounds in measurements.items():
        fields = (*asdict(rounds[0]), "cpu_us", "p99_to_p50")
        figures = {field: _spread([getattr(each, field) for each in rounds]) for field in fields}
        rates, consumed = {}, {}
        for other in ("no-op", "textbook"):
            pairs = list(zip(rounds, measurements.get((other, connections), ()), strict=False))
            if pairs:
                rates[other] = _spread([each.per_second / bound.per_second for each, bound in pairs])
                consumed[other] = _spread([each.cpu_us / bound.cpu_us for each, bound in pairs])
        summaries.append({"variant": name, "connections": connections, **figures, "rate_to": rates, "cpu_to": consumed})
    return summaries


def _spread(values: list[float]) -> list[float]:
    return [round(function(values), 3) for function in (min, statistics.median, max)]


def table_of(summaries: Sequence[Mapping[str, Any]]) -> str:
    """A table of summaries: medians, for requests/s and CPU with minimum and maximum."""
    header = ("variant", "connections", "requests/s", ": no-op", "p50 ms", "p99 ms", "p99 : p50", "CPU us", ": no-op")
    rows = [
        (
            row["variant"],
            row["connections"],
            " / ".join(f"{value:.0f}" for value in row["per_second"]),
            _ratio_to_no_op(row["rate_to"]),
            f"{row['p50_ms'][1]:.1f}",
            f"{row['p99_ms'][1]:.1f}",
            f"{row['p99_to_p50'][1]:.1f}",
            " / ".join(f"{value:.0f}" for value in row["cpu_us"]),
            _ratio_to_no_op(row["cpu_to"]),
            *(f"{row[f'{group}_us'][1]:.0f}" for group in _GROUPS),
        )
        for row in summaries
    ]
    return report.table((*header, *_GROUPS), rows)


def _ratio_to_no_op(ratios: Mapping[str, Sequence[float]]) -> str:
    return f"{ratios['no-op'][1]:.2f}" if "no-op" in ratios else ""
