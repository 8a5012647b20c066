"""`python -m bench`: runs the benchmarks one after the other."""

from collections.abc import Callable
from typing import Any

import click

from bench import (
    budget,
    events,
    memory,
    month,
    pages,
    reads,
    report,
    send,
    start,
    storage,
    tables,
    verify,
    webhooks,
    worker,
)

Benchmark = Callable[[float, int], dict[str, Any]]
BENCHMARKS: dict[str, Benchmark] = {
    "budget": budget.run,
    "worker": worker.run,
    "webhooks": webhooks.run,
    "month": month.run,
    "reads": reads.run,
    "verify": verify.run,
    "events": events.run,
    "pages": pages.run,
    "memory": memory.run,
    "start": start.run,
    "storage": storage.run,
}
NAMES = ("send", *BENCHMARKS)
CONNECTIONS = 16


def parse_names(_context: click.Context | None, parameter: click.Parameter, text: str) -> list[str]:
    """Names of benchmarks or of variants, separated by commas."""
    choices = NAMES if parameter.name == "only" else send.VARIANTS
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or not {*names} <= {*choices}:
        raise click.BadParameter(f"choose from {', '.join(choices)}")
    return names


@click.command()
@click.option("--only", default=",".join(NAMES), show_default=True, callback=parse_names, help="Benchmarks.")
@click.option("--seconds", type=click.FloatRange(min=1), default=10.0, show_default=True, help="Of load, for each.")
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    multiple=True,
    help=f"At the same time; several for send.  [default: {CONNECTIONS}; {send.CONNECTIONS} for send]",
)
@click.option("--variants", default=",".join(send.VARIANTS), show_default=True, callback=parse_names, help="Of send.")
def main(only: list[str], seconds: float, connections: tuple[int, ...], variants: list[str]) -> None:
    """Measure the product on engines of its own, store the results in bench/results/latest.json, and show them.

    Their tables are printed, and written on docs/performance.md and README.md.
    """
    failed = []
    for name in only:
        try:
            if name == "send":
                result = send.run(seconds, connections or send.CONNECTIONS, variants)
            else:
                result = BENCHMARKS[name](seconds, connections[0] if connections else CONNECTIONS)
            report.save_results({name: result})
        except RuntimeError as error:
            failed.append(name)
            click.echo(f"{name} failed: {error}", err=True)
    tables.write_pages()
    click.echo(tables.target_table(report.read_results()))
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
