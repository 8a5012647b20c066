"""`python -m bench`: runs the benchmarks one after the other."""

from collections.abc import Callable
from typing import Any

import click

from bench import events, pages, report, verify

Benchmark = Callable[[float, int], dict[str, Any]]
BENCHMARKS: dict[str, Benchmark] = {"verify": verify.run, "events": events.run, "pages": pages.run}


def parse_names(_context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Names of benchmarks, separated by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown or not names:
        raise click.BadParameter(f"choose from {', '.join(BENCHMARKS)}")
    return names


@click.command()
@click.option(
    "--only",
    default=",".join(BENCHMARKS),
    show_default=True,
    callback=parse_names,
    help="Benchmarks, separated by commas.",
)
@click.option("--seconds", type=click.FloatRange(min=1), default=10.0, show_default=True, help="Of load, for each.")
@click.option("--connections", type=click.IntRange(min=1), default=16, show_default=True, help="At the same time.")
def main(only: list[str], seconds: float, connections: int) -> None:
    """Measure the product on engines of its own, print tables and store the results in bench/results/latest.json."""
    for name in only:
        report.save_results({name: BENCHMARKS[name](seconds, connections)})


if __name__ == "__main__":
    main()
