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
