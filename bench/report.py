"""Output of benchmarks: progress on stderr, tables, and a file with all results."""

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import click

from saas_api.cli.dev import host

RESULTS = Path(__file__).parent / "results" / "latest.json"


class Progress:
    """Steps that are done, on stderr: one line that changes on a terminal, a line for each step in a file."""

    def __init__(self, label: str, steps: int) -> None:
        self._label, self._steps, self._done = label, steps, 0

    def update(self, count: int, name: str = "") -> None:
        """Count steps.

        name: of the step that begins or is done
        """
        self._done += count
        line = f"{self._label}: {self._done:,} of {self._steps:,}" + (f", {name}" if name else "")
        click.echo(f"\r\033[K{line}" if sys.stderr.isatty() else line, err=True, nl=not sys.stderr.isatty())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if sys.stderr.isatty():
            click.echo(err=True)


def progress(label: str, steps: int) -> Progress:
    """Progress on stderr for a `with` block."""
    return Progress(label, steps)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table with aligned columns."""
    texts = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in texts
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table with aligned columns."""
    click.echo(table(header, rows))


def read_results() -> dict[str, Any]:
    """The stored results by benchmark."""
    stored: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return stored


def save_results(results: dict[str, Any]) -> None:
    """Store results by benchmark with the machine, beside stored results of other benchmarks."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    entries = {name: {**_describe_machine(), **result} for name, result in results.items()}
    RESULTS.write_text(json.dumps({**read_results(), **entries}, indent=1) + "\n", encoding="utf-8")
    click.echo(f"Kept in {RESULTS.relative_to(RESULTS.parents[2])}")


def _describe_machine() -> dict[str, Any]:
    """When and on what a result was measured."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _revision(),
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "postgresql": _first_number(_first_line(str(host.postgres_bin_directory() / "postgres"), "--version")),
        "redis": _first_number(_first_line(host.redis_server_path(), "--version")),
    }


def _revision() -> str:
    """The commit, marked when the product differs from it; a run changes the pages of results itself."""
    changes = _first_line("git", "status", "--porcelain", "--", "saas_api", "migrations", "config.py", "*.conf.py")
    return _first_line("git", "rev-parse", "--short", "HEAD") + ("-dirty" if changes else "")


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor()


def _first_line(*command: str) -> str:
    result = subprocess.run(command, cwd=RESULTS.parents[1], capture_output=True, text=True, check=False)  # noqa: S603 - our own
    return (result.stdout.splitlines() or [""])[0]


def _first_number(version: str) -> str:
    """The version in a line like `postgres (PostgreSQL) 18.4`."""
    number = re.search(r"[0-9]+(\.[0-9]+)+", version)
    return number[0] if number else version
