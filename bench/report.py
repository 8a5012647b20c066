"""Output of benchmarks: progress on stderr, tables, and a file with all results."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import click

RESULTS = Path(__file__).parent / "results" / "latest.json"


class Progress:
    """Steps that are done, on stderr: one line that changes on a terminal, a line for each step in a file."""

    def __init__(self, label: str, steps: int) -> None:
        self._label, self._steps, self._done = label, steps, 0

    def step(self, name: str) -> None:
        """Announce a step that begins."""
        self._done += 1
        line = f"{self._label}: {self._done} of {self._steps}, {name}"
        click.echo(f"\r\033[K{line}" if sys.stderr.isatty() else line, err=True, nl=not sys.stderr.isatty())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if sys.stderr.isatty():
            click.echo(err=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table with aligned columns."""
    texts = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in texts
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    click.echo("\n".join(lines))


def save_results(results: dict[str, Any]) -> None:
    """Store results by benchmark, beside stored results of other benchmarks."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "system": platform.platform()}
    at = datetime.now(UTC).isoformat(timespec="seconds")
    entries = {name: {"at": at, **machine, **result} for name, result in results.items()}
    RESULTS.write_text(json.dumps({**stored, **entries}, indent=1) + "\n", encoding="utf-8")
    click.echo(f"Kept in {RESULTS.relative_to(RESULTS.parents[2])}")
