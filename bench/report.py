"""What a measurement shows: progress on stderr while it runs, a table at the end, and a file."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

RESULTS = Path(__file__).parent / "results" / "latest.json"


def progress(label: str, steps: int) -> "ProgressBar[int]":
    """A bar on stderr for a `with` block, for so many steps; `update(1)` after each."""
    return click.progressbar(length=steps, label=label, file=sys.stderr)


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table whose columns stand under each other."""
    texts = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in texts
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    click.echo("\n".join(lines))


def keep(results: dict[str, Any]) -> None:
    """Write results beside what earlier runs have measured of other parts."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "system": platform.platform()}
    at = datetime.now(UTC).isoformat(timespec="seconds")
    stamped = {name: {"at": at, **machine, **found} for name, found in results.items()}
    RESULTS.write_text(json.dumps({**before, **stamped}, indent=1) + "\n", encoding="utf-8")
    click.echo(f"Kept in {RESULTS.relative_to(RESULTS.parents[2])}")
