"""Targets of the benchmarks: the figure that a run has, and whether it meets the target."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]

CLOSED_LOOPS = (16, 64)
"""Numbers of connections at which sends are compared."""


@dataclass(frozen=True)
class Target:
    """A bound on a figure.

    what: said in a row of a table
    calculate: the figure; raises KeyError or ValueError when it was not measured
    is_least: whether the limit is the least allowed, instead of the most
    shape: format of the figure
    """

    what: str
    calculate: Callable[[Results], float]
    limit: float
    is_least: bool = True
    shape: str = "{:,.0f}"

    @property
    def goal(self) -> str:
        """The limit, as a row of a table says it."""
        return f"{'≥' if self.is_least else '≤'} {self.limit:,g}"

    def read(self, results: Results) -> float | None:
        """The figure; None when it was not measured."""
        try:
            return self.calculate(results)
        except (KeyError, ValueError):
            return None

    def is_met(self, figure: float) -> bool:
        """Whether a figure meets the target."""
        return figure >= self.limit if self.is_least else figure <= self.limit


def _ratios(summaries: Iterable[Mapping[str, Any]], variant: str, field: str, to: str = "no-op") -> list[float]:
    """Medians of a ratio to another variant, for each number of connections but one."""
    return [row[field][to][1] for row in summaries if row["variant"] == variant and row["connections"] in CLOSED_LOOPS]


def _half_peak_spread(results: Results) -> float:
    halves = {row["variant"]: row for row in results["send"]["half_peak"]}
    return float(halves["product"]["p99_to_p50"][1])


def _webhooks(results: Results, scenario: str) -> float:
    medians = {row["scenario"]: row["per_second"][1] for row in results["webhooks"]["measurements"]}
    return float(medians[scenario])


TARGETS = (
    Target(
        "accepted sends/s : no-op requests/s, gunicorn",
        lambda results: min(_ratios(results["send"]["peak"], "product", "rate_to")),
        0.30,
        shape="{:.2f}",
    ),
    Target(
        "accepted sends/s : no-op requests/s, granian",
        lambda results: min(_ratios(results["send"]["peak"], "granian", "rate_to")),
        0.45,
        shape="{:.2f}",
    ),
    Target(
        "accepted sends/s : textbook sends/s",
        lambda results: min(_ratios(results["send"]["peak"], "product", "rate_to", "textbook")),
        6,
        shape="{:.1f}",
    ),
    Target(
        "CPU of all processes, accepted send : no-op",
        lambda results: max(_ratios(results["send"]["peak"], "product", "cpu_to")),
        3,
        is_least=False,
        shape="{:.1f}",
    ),
    Target("p99 : p50 of accepted sends at half of the peak", _half_peak_spread, 5, is_least=False, shape="{:.1f}"),
    Target(
        "messages/s of one worker, 10,000,000 stored",
        lambda results: float(results["worker"]["measurements"][-1]["per_second"][1]),
        3_000,
    ),
    Target("webhooks/s of one worker to one endpoint", lambda results: _webhooks(results, "one endpoint"), 1_200),
    Target("webhooks/s of one worker to ten endpoints", lambda results: _webhooks(results, "ten endpoints"), 1_200),
    Target(
        "organizations closed a second by one process",
        lambda results: float(results["month"]["organizations_per_second"]),
        200,
    ),
    Target(
        "last quarter of them : first quarter",
        lambda results: results["month"]["quarters"][-1] / results["month"]["quarters"][0],
        0.8,
        shape="{:.2f}",
    ),
    Target(
        "slowest read with 10,000,000 usage events, ms",
        lambda results: max(read["large_ms"] for read in results["reads"]["reads"].values()),
        30,
        is_least=False,
        shape="{:.1f}",
    ),
    Target(
        "largest ratio of a read, 10,000,000 : 100,000 usage events",
        lambda results: max(read["ratio"] for read in results["reads"]["reads"].values()),
        1.5,
        is_least=False,
        shape="{:.2f}",
    ),
    Target(
        "slowest job of each minute at 10,000,000, s",
        lambda results: max(results["reads"]["job_seconds"][job] for job in ("usage.roll_up", "billing.alerts")),
        1,
        is_least=False,
        shape="{:.2f}",
    ),
    Target(
        "close of a period of 10,000,000 usage events, s",
        lambda results: float(results["reads"]["job_seconds"]["billing close"]),
        60,
        is_least=False,
        shape="{:.1f}",
    ),
    Target(
        "largest process after load, MiB",
        lambda results: max(process["after_load_mib"] for process in results["memory"]["processes"]),
        120,
        is_least=False,
    ),
    Target(
        "verified keys/s : no-op requests/s",
        lambda results: min(_ratios(results["verify"]["calls"], "verify", "rate_to")),
        0.6,
        shape="{:.2f}",
    ),
    Target(
        "verified and recorded calls/s : no-op requests/s",
        lambda results: min(_ratios(results["verify"]["calls"], "verify and record", "rate_to")),
        0.45,
        shape="{:.2f}",
    ),
    Target("usage events/s in batches of 1,000", lambda results: float(results["events"]["events_per_second"]), 30_000),
    Target(
        "CPU of PostgreSQL for an event of a batch, in us",
        lambda results: float(results["events"]["database_us"]),
        35,
        is_least=False,
        shape="{:.1f}",
    ),
)
