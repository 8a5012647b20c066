"""Load on web servers: wrk with `load.lua`, and servers of the Flask applications of this folder."""

import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from flask import Flask

from tests.support import web_server
from tests.support.web_server import WebServer

WEB_PROCESSES, WEB_THREADS = 2, 8
PLACE_OF_NUMBER = "#" * 16
"""In a body or a header: another number stands there in each request."""
JSON_HEADERS = {"Content-Type": "application/json"}
_DIRECTORY = Path(__file__).parent
_TIMEOUT = 30
_runs = itertools.count(os.getpid() % 1_000 * 1_000)


@dataclass(frozen=True)
class Call:
    """The POST request that is sent again and again."""

    server: WebServer
    path: str
    body: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Load:
    """What the load generator counted.

    requests: answered with 2xx
    seconds: from the first request to the last answer
    p50_ms, p99_ms: time to the answer; at a fixed rate from the instant at which the request was due
    cpu_seconds: of the load generator itself
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def find_wrk() -> str:
    """Path of wrk.

    raises: click.ClickException when it is not installed
    """
    path = shutil.which("wrk")
    if path is None:
        raise click.ClickException("The load comes from wrk, which is not installed: apt-get install wrk")
    return path


def send(call: Call, seconds: float, connections: int, rate: float = 0) -> Load:
    """Send a request again and again, and wait for all answers.

    rate: requests a second of all connections together, however slowly they are answered;
        0 sends on each connection as soon as it is answered
    raises: RuntimeError for any answer but 2xx, and for a connection that failed
    """
    command = [find_wrk(), "--script", str(_DIRECTORY / "load.lua"), "--timeout", f"{_TIMEOUT}s"]
    command += ["--connections", str(connections), "--threads", str(connections if rate else 1)]
    command += ["--duration", f"{math.ceil(seconds) + _TIMEOUT}s"]  # at most: the script ends it
    command += [part for name, value in call.headers.items() for part in ("--header", f"{name}: {value}")]
    command += [f"http://127.0.0.1:{call.server.port}{call.path}"]
    environment = {
        "LOAD_SECONDS": str(seconds),
        "LOAD_CONNECTIONS": str(connections),
        "LOAD_RATE": str(rate),
        "LOAD_PREFIX": f"{next(_runs):06}",
    }
    with tempfile.NamedTemporaryFile("w") as body:
        body.write(call.body)
        body.flush()
        output, cpu_seconds = _run(command, {**environment, "LOAD_BODY": body.name})
    counted = json.loads(output.splitlines()[-1])
    errors = counted.pop("errors")
    if errors:
        raise RuntimeError(f"{call.path}: {errors} of {counted['requests']} requests failed:\n{output}")
    return Load(**counted, cpu_seconds=cpu_seconds)


def _run(command: list[str], environment: dict[str, str]) -> tuple[str, float]:
    """Output and CPU seconds of a process."""
    process = subprocess.Popen(  # noqa: S603 - a command of our own
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout  # noqa: S101 - it is a pipe
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"wrk ended with {process.returncode}:\n{output}")
    return output, usage.ru_utime + usage.ru_stime


@contextlib.contextmanager
def serving_product(app: Flask, settings: Mapping[str, Any]) -> Iterator[WebServer]:
    """Serve the product on the engines of an application until the block ends.

    settings: those that differ from a test's
    """
    served = {name: str(value) for name, value in settings.items()}
    served |= {"WEB_CONCURRENCY": str(WEB_PROCESSES), "LOG_LEVEL": "error"}
    with tempfile.TemporaryDirectory() as logs, web_server.serve(app.config, Path(logs), **served) as server:
        yield server


@contextlib.contextmanager
def serving(module: str, **environment: str) -> Iterator[WebServer]:
    """Serve `app` of a module of this folder with the processes and threads of the product until the block ends."""
    port = web_server.free_port()
    command = [sys.executable, "-m", "gunicorn", f"{module}:app"]
    command += ["--worker-class", "gthread", "--threads", str(WEB_THREADS), "--workers", str(WEB_PROCESSES)]
    command += [
        "--bind",
        f"127.0.0.1:{port}",
        "--keep-alive",
        "75",
        "--graceful-timeout",
        "1",
        "--log-level",
        "critical",
    ]
    # The product's own gunicorn.conf.py is not in this folder.
    process = subprocess.Popen(command, cwd=_DIRECTORY, env={**os.environ, **environment})  # noqa: S603 - the same
    server = WebServer(process, port)
    try:
        web_server.wait_until_served(server)
        yield server
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(30)


def run_module(module: str, **environment: str) -> None:
    """Run a module of this folder as a program."""
    command = [sys.executable, "-m", module]
    subprocess.run(command, cwd=_DIRECTORY, env={**os.environ, **environment}, check=True)  # noqa: S603 - the same
