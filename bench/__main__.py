"""`python -m bench`: measure one part after the other."""

from collections.abc import Callable
from typing import Any

import click

from bench import pages, report

Part = Callable[[float, int], dict[str, Any]]
PARTS: dict[str, Part] = {"pages": pages.run}


def read_parts(_context: click.Context, _parameter: click.Parameter, text: str) -> list[str]:
    """Names of parts, with commas between them."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        raise click.BadParameter(f"choose from {', '.join(PARTS)}")
    return names


@click.command()
@click.option("--only", default=",".join(PARTS), show_default=True, callback=read_parts, help="Parts, with commas.")
@click.option("--seconds", type=click.FloatRange(min=1), default=10.0, show_default=True, help="Of load, for each.")
@click.option("--connections", type=click.IntRange(min=1), default=16, show_default=True, help="At the same time.")
def main(only: list[str], seconds: float, connections: int) -> None:
    """Measure the product on engines of its own, print tables and keep the figures in bench/results/latest.json."""
    for name in only:
        report.keep({name: PARTS[name](seconds, connections)})


if __name__ == "__main__":
    main()
