"""Benchmark of starts: CPU of commands and of a web process until it serves, with bytecode and without."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench import report
from bench.application import running_application
from bench.consumption import tree_seconds
from saas_api.core.settings import ROOT
from tests.support import web_server

COMMANDS = ("--help", "billing --help", "worker --help")
SERVERS = ("gunicorn", "granian")
ROUNDS = 3


def run(_seconds: float, _connections: int) -> dict[str, Any]:
    """Start everything some times, and print a table.

    returns: `starts`: name, and minimum, median and maximum of seconds of CPU and of seconds until it is done
    """
    measured: dict[str, list[tuple[float, float]]] = {}
    names = [f"flask {command}" for command in COMMANDS]
    steps = (2 * len(COMMANDS) + len(SERVERS)) * ROUNDS
    with running_application() as app, report.progress("start", steps) as bar:
        for _ in range(ROUNDS):
            for name in names:
                bar.update(1, name)
                measured.setdefault(name, []).append(_run_command(name))
                without = f"{name}, no bytecode"
                bar.update(1, without)
                measured.setdefault(without, []).append(_run_command(name, has_bytecode=False))
            for server in SERVERS:
                bar.update(1, server)
                measured.setdefault(f"web, {server}", []).append(_start_web(app.config, server))
    starts = [
        {
            "name": name,
            "cpu_seconds": _spread([cpu for cpu, _ in rounds]),
            "seconds": _spread([seconds for _, seconds in rounds]),
        }
        for name, rounds in measured.items()
    ]
    results = {"settings": {"rounds": ROUNDS}, "starts": starts}
    print_results(results)
    return results


def _run_command(name: str, *, has_bytecode: bool = True) -> tuple[float, float]:
    """Seconds of CPU, and seconds, of a command.

    has_bytecode: False lets it compile every module, as where Python may not write its cache
    """
    with tempfile.TemporaryDirectory() as empty:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        if not has_bytecode:
            environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": empty}
        started_at = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - a command of our own
            [sys.executable, "-m", *name.split()], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{name} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - started_at


def _start_web(config: dict[str, Any], server: str) -> tuple[float, float]:
    """Seconds of CPU, and seconds, until one web process and its supervisor serve."""
    started_at = time.perf_counter()
    with web_server.serve(config, Path(config["INSTANCE"]), SERVER=server) as web:
        return tree_seconds(psutil.Process(web.process.pid)), time.perf_counter() - started_at


def _spread(values: list[float]) -> list[float]:
    return [round(function(values), 2) for function in (min, statistics.median, max)]


def print_results(results: dict[str, Any]) -> None:
    """Print a row for each start."""
    rows = [
        (each["name"], *(" / ".join(f"{value:.2f}" for value in each[field]) for field in ("cpu_seconds", "seconds")))
        for each in results["starts"]
    ]
    report.print_table(("start", "CPU s", "s"), rows)
