"""`flask dev up`: the whole product on this machine, as `make run` starts it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import click
import redis
import sqlalchemy as sa
from flask import current_app
from sqlalchemy.exc import OperationalError

from saas_api.cli.dev.engines import Engines
from saas_api.cli.dev.supervisor import (
    RESTART_DELAYS,
    SLOW_RESTART_DELAYS,
    ChildProcess,
    RestartLimitReached,
    SourceWatcher,
    Supervisor,
)
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.core.limits import diagnosis
from saas_api.core.settings import setting
from saas_api.settings import instance

READY_TIMEOUT_SECONDS = 60
LOOPBACK = "127.0.0.0/8,::1/128"

group = CommandGroup("dev", help="Run the product on this machine.")


@group.command("up")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on instead of API_PORT.")
@click.option("--demo/--no-demo", "with_demo", default=True, help="Demo organizations.", show_default=True)
@click.option("--reload", "with_reload", is_flag=True, help="Restart on code changes.")
def up(*, port: int | None, with_demo: bool, with_reload: bool) -> None:
    """Start everything: engines, migrations, demo data, web, worker and scheduler. Stop it with Ctrl-C.

    Example: flask dev up --port 9000 --reload
    """
    if setting("APP_ENV") == "production":
        raise CommandError(
            "This is for development; with APP_ENV=production start python serve.py, flask worker and "
            "flask scheduler, as compose.yaml does."
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # until the supervisor takes over: engines stop cleanly
    instance_path = Path(setting("INSTANCE"))
    if port:
        _listen_on(port)
    _require_free_port(setting("API_PORT"))
    embedded = instance.embedded_engines(instance_path, setting("DATABASE_URL"), setting("REDIS_URL"))
    _require_external_engines(embedded)
    engines = Engines(instance_path, names=embedded)
    engines.acquire()
    sources = SourceWatcher(Path(current_app.root_path).parent) if with_reload else None
    try:
        _run(instance_path, engines, with_demo=with_demo, sources=sources)
    except RestartLimitReached as error:
        sys.exit(str(error))  # not as one line: it ends with the last output of the process
    finally:
        engines.stop()


def _listen_on(port: int) -> None:
    """Set API_PORT, and APP_URL when it was computed from API_PORT."""
    config = current_app.config
    if config["APP_URL"] == f"http://localhost:{config['API_PORT']}":
        config["APP_URL"] = f"http://localhost:{port}"
    config["API_PORT"] = port


def _run(instance_path: Path, engines: Engines, *, with_demo: bool, sources: SourceWatcher | None) -> None:
    run = instance_path / "run"
    run.mkdir(parents=True, exist_ok=True)
    children = _children()
    supervisor = Supervisor(run, [*engines.running], children, SLOW_RESTART_DELAYS if sources else RESTART_DELAYS)
    try:
        supervisor.start(children[0])  # the web takes longest to start, and needs no engine for it
        engines.start()
        credentials = _prepare(with_demo=with_demo)
        deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        supervisor.watch(until=lambda: _is_ready() or time.monotonic() > deadline)
        if not supervisor.is_stopping:
            if not _is_ready():
                raise RestartLimitReached(
                    f"the web did not answer on port {setting('API_PORT')} within {READY_TIMEOUT_SECONDS} s"
                )
            supervisor.start(*children[1:])
            _print_ready(credentials)
            _watch(supervisor, sources)
    finally:
        supervisor.stop()


def _watch(supervisor: Supervisor, sources: SourceWatcher | None) -> None:
    """Supervise the processes until a signal, and restart them when the code changes."""
    if sources is None:
        supervisor.watch()
        return
    while not supervisor.is_stopping:
        supervisor.watch(until=sources.has_changed)
        if not supervisor.is_stopping:
            sys.stderr.write("The code has changed; restarting\n")
            supervisor.restart()


def _prepare(*, with_demo: bool) -> str:
    """Migrate the database, and make the demo organizations; returns what is printed about them."""
    command = [sys.executable, "-m", "flask", "dev", "prepare", "--demo" if with_demo else "--no-demo"]
    environment = {**os.environ, **_environment(), "APP_URL": setting("APP_URL")}
    prepared = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - our own
    if prepared.returncode:
        sys.exit(prepared.returncode)  # it has said why
    return prepared.stdout


def _environment() -> dict[str, str]:
    return {
        "PYTHONUNBUFFERED": "1",
        "TZ": "UTC",
        "API_PORT": str(setting("API_PORT")),
        "SERVER": setting("SERVER"),
        "WEB_CONCURRENCY": str(setting("WEB_CONCURRENCY")),
        "WEBHOOK_ALLOWED_NETWORKS": os.environ.get("WEBHOOK_ALLOWED_NETWORKS", _allowed_networks()),
    }


def _children() -> list[ChildProcess]:
    python = sys.executable
    commands = {
        "web": [python, "serve.py"],
        "worker": [python, "-m", "flask", "worker"],
        "scheduler": [python, "-m", "flask", "scheduler"],
    }
    return [ChildProcess(name, command, _environment()) for name, command in commands.items()]


def _allowed_networks() -> str:
    """Private networks that webhooks may be sent to: this machine, unless the settings name some."""
    return ",".join(setting("WEBHOOK_ALLOWED_NETWORKS")) or LOOPBACK


def _require_free_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise CommandError(f"port {port} cannot be used ({error.strerror}); set API_PORT to another") from error


def _require_external_engines(embedded: tuple[str, ...]) -> None:
    if "postgres" not in embedded:
        _require_postgres()
    if "redis" not in embedded:
        _require_redis()
    if setting("LIMITS_REDIS_URL") != setting("REDIS_URL"):
        for problem in diagnosis.find_problems(setting("LIMITS_REDIS_URL")):
            raise CommandError(f"LIMITS_REDIS_URL: {problem}")


def _require_postgres() -> None:
    engine = sa.create_engine(setting("DATABASE_URL"), connect_args={"connect_timeout": 3})
    try:
        engine.connect().close()
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise CommandError(f"DATABASE_URL: PostgreSQL cannot be reached: {reason}") from None
    finally:
        engine.dispose()


def _require_redis() -> None:
    with redis.Redis.from_url(setting("REDIS_URL"), socket_connect_timeout=3, socket_timeout=3) as client:
        try:
            client.ping()
        except redis.RedisError as error:
            raise CommandError(f"REDIS_URL: Redis cannot be reached: {error}") from None


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{setting('API_PORT')}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _print_ready(credentials: str) -> None:
    """Print what the preparation printed, and that the product serves."""
    url = current_app.config["APP_URL"]
    lines = ["", credentials] if credentials else []
    emails = "" if current_app.config["SMTP_HOST"] else f"emails: {url}/ops/mail, "
    ready = f"READY {url} (documentation: {url}/docs/, {emails}stop: Ctrl-C, pid {os.getpid()})"
    click.echo("\n".join([*lines, ready]))
