"""Targets of the benchmarks: the figure that a run has, and whether it meets the target."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]

CLOSED_LOOPS = (16, 64)
"""Numbers of connections at which sends are compared."""


@dataclass(frozen=True)
class Target:
    """A bound on a figure.

    what: said in a row of a table
    calculate: the figure; raises KeyError when it was not measured
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
        except KeyError:
            return None

    def is_met(self, figure: float) -> bool:
        """Whether a figure meets the target."""
        return figure >= self.limit if self.is_least else figure <= self.limit


def _sends(results: Results, variant: str, field: str, to: str) -> list[float]:
    """Medians of a ratio to another variant, for each number of connections."""
    summaries = {(row["variant"], row["connections"]): row for row in results["send"]["peak"]}
    return [summaries[variant, connections][field][to][1] for connections in CLOSED_LOOPS]


def _half_peak_spread(results: Results) -> float:
    halves = {row["variant"]: row for row in results["send"]["half_peak"]}
    return float(halves["product"]["p99_to_p50"][1])


TARGETS = (
    Target(
        "accepted sends/s : no-op requests/s, gunicorn",
        lambda results: min(_sends(results, "product", "rate_to", "no-op")),
        0.30,
        shape="{:.2f}",
    ),
    Target(
        "accepted sends/s : no-op requests/s, granian",
        lambda results: min(_sends(results, "granian", "rate_to", "no-op")),
        0.45,
        shape="{:.2f}",
    ),
    Target(
        "accepted sends/s : textbook sends/s",
        lambda results: min(_sends(results, "product", "rate_to", "textbook")),
        6,
        shape="{:.1f}",
    ),
    Target(
        "CPU of all processes, accepted send : no-op",
        lambda results: max(_sends(results, "product", "cpu_to", "no-op")),
        3,
        is_least=False,
        shape="{:.1f}",
    ),
    Target("p99 : p50 of accepted sends at half of the peak", _half_peak_spread, 5, is_least=False, shape="{:.1f}"),
)
