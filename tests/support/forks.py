"""Starts processes of the product quickly, as forks of a process that has imported it."""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import flask.cli

import config as _config
from saas_api import app, cli

ROOT = Path(__file__).resolve().parents[2]
LOADED = (_config, app)
"""Modules that every fork has imported; a fork that imported them itself would compute for a second."""
cli.init_app(flask.Flask("loaded"))  # imports the modules of the commands
SHARED = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "JWT_SECRET", "API_KEY_PEPPER")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


def engines_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of a process that uses the engines of the test."""
    return {"APP_ENV": "test", **{name: str(config[name]) for name in SHARED}}


def start(
    function: Callable[..., object], *arguments: Any, environment: Mapping[str, str], output: tuple[str, str] = ("", "")
) -> ForkServerProcess:
    """Call a function of a module in a process that leads a group of its own.

    environment: added to this process's
    output: files that stdout and stderr are appended to; empty for those of this process
    """
    process = _context.Process(target=_run, args=(function, arguments, {**os.environ, **environment}, output))
    process.start()
    return process


def start_flask(
    *arguments: str, environment: Mapping[str, str], output: tuple[str, str] = ("", "")
) -> ForkServerProcess:
    """Start a `flask` command."""
    return start(_flask, arguments, environment=environment, output=output)


def run_flask_at_once(
    arguments: tuple[str, ...], environments: Sequence[Mapping[str, str]], seconds: float = 60
) -> "list[subprocess.CompletedProcess[str]]":
    """Run a command concurrently in several environments and wait for all."""
    with tempfile.TemporaryDirectory() as folder:
        files = [(f"{folder}/{number}.out", f"{folder}/{number}.err") for number in range(len(environments))]
        started = [
            start_flask(*arguments, environment=environment, output=output)
            for environment, output in zip(environments, files, strict=True)
        ]
        codes = [wait(process, seconds) for process in started]
        texts = [[Path(name).read_text() for name in output] for output in files]
    return [
        subprocess.CompletedProcess(arguments, code, out, err) for code, (out, err) in zip(codes, texts, strict=True)
    ]


def run_flask(*arguments: str, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command and wait for it."""
    return run_flask_at_once(arguments, [environment])[0]


def wait(process: ForkServerProcess, seconds: float) -> int:
    """The exit code of a process when it has ended; below 0 the signal that ended it."""
    process.join(seconds)
    assert process.exitcode is not None, f"process {process.pid} still runs after {seconds} s"
    return process.exitcode


@contextlib.contextmanager
def talking(function: Callable[..., object], *arguments: Any, environment: Mapping[str, str]) -> Iterator[Connection]:
    """Call `function(connection, *arguments)` in a process until the end of the block, and yield the other end."""
    ours, theirs = _context.Pipe()
    process = start(function, theirs, *arguments, environment=environment)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.kill()
        process.join()


def _run(
    function: Callable[..., object], arguments: tuple[Any, ...], environment: dict[str, str], output: tuple[str, str]
) -> None:
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment, FLASK_SKIP_DOTENV="1")
    time.tzset()
    for descriptor, name in enumerate(output, start=1):
        if name:
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    try:
        function(*arguments)
    except Exception:  # noqa: BLE001 - the product's hook reports it
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def _flask(arguments: tuple[str, ...]) -> None:
    sys.argv = ["flask", *arguments]
    flask.cli.main()
