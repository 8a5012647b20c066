"""`flask dev engines`: PostgreSQL and Redis of an instance."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import redis

from saas_api.cli import output, types
from saas_api.cli.dev import engines as embedded_engines
from saas_api.cli.dev import host
from saas_api.cli.dev.engines import Engines
from saas_api.cli.dev.servers import POSTGRES_MAJOR
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.core.settings import setting
from saas_api.settings import instance
from saas_api.settings.instance import DATABASE_LOGIN, DATABASE_NAME

group = CommandGroup("engines", help="PostgreSQL and Redis of this checkout, without the product.")


@group.command("start")
def start() -> None:
    """Start PostgreSQL and Redis in the background, unless they are running.

    Example: flask dev engines start
    """
    engines = _require_embedded()
    owner = engines.owner_pid()
    if owner:
        click.echo(f"They run already, in process {owner}.")
    else:
        owner = embedded_engines.start_owner_process(engines)
        click.echo(f"They run in process {owner}; stop them with flask dev engines stop.")
    for line in _status_lines(_engine_status(engines)):
        click.echo(line)


@group.command("stop")
def stop() -> None:
    """Stop PostgreSQL and Redis, and the process that runs them, such as make run.

    Example: flask dev engines stop
    """
    pid = embedded_engines.stop_owner_process(_require_embedded())
    click.echo(f"They are stopped, and so is process {pid}, which ran them." if pid else "They do not run.")


@group.command("status")
@types.json_option
def status(*, as_json: bool) -> None:
    """Show versions, sockets and data folders.

    Example: flask dev engines status --json
    """
    data = _engine_status(_require_embedded())
    output.print_result(data, _status_lines(data), as_json=as_json)


@group.command("psql", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(arguments: tuple[str, ...]) -> None:
    """Open psql with access to the rows of every organization. ARGUMENTS are passed to psql.

    Example: flask dev engines psql -c "SELECT name, status FROM organizations"
    """
    exec_psql(_configured_engines(), arguments)


def exec_psql(engines: Engines, arguments: Sequence[str]) -> None:
    """Replace this process by psql, connected to the embedded PostgreSQL or to DATABASE_URL.

    raises: CommandError when psql is not installed, or the embedded engines do not run
    """
    if engines.postgres in engines.running:
        program = str(host.postgres_bin_directory() / "psql")
        target = ["-h", str(engines.run), "-U", DATABASE_LOGIN, "-d", DATABASE_NAME]
        if engines.owner_pid() is None:
            raise CommandError("The engines do not run; start them with flask dev engines start, or make run.")
    else:
        program, target = shutil.which("psql") or "", [setting("DATABASE_URL").replace("+psycopg2", "", 1)]
    if not Path(program).is_file():
        raise CommandError("There is no psql here; install one (Debian: apt install postgresql-client).")
    environment = {**os.environ, "PGOPTIONS": "-c role=saas_system"}
    os.execve(program, [program, *target, *arguments], environment)  # noqa: S606 - a program found above


@group.command("reset")
@click.option("--yes", "is_sure", is_flag=True, help="Skip the confirmation.")
def reset(*, is_sure: bool) -> None:
    """Delete all local data, after asking for the name of the checkout. The next start begins empty.

    Example: flask dev engines reset
    """
    engines = _require_embedded()
    if engines.owner_pid():
        raise CommandError("The engines run; stop them first: flask dev engines stop.")
    word = engines.instance.parent.name
    output.confirm_by_typing(word, f"All data in {engines.home} is lost.", is_sure=is_sure)
    engines.acquire()
    try:
        for engine in engines.running:
            if engine.is_ready():
                raise CommandError(
                    f"{engine.name} still answers; run flask dev engines start and stop, then try again."
                )
        for folder in ("pg", "redis"):
            shutil.rmtree(engines.home / folder, ignore_errors=True)
    finally:
        engines.stop()
    click.echo(f"The data in {engines.home} is deleted.")


def _configured_engines() -> Engines:
    path = Path(setting("INSTANCE"))
    return Engines(path, names=instance.embedded_engines(path, setting("DATABASE_URL"), setting("REDIS_URL")))


def _require_embedded() -> Engines:
    engines = _configured_engines()
    if not engines.running:
        raise CommandError("DATABASE_URL and REDIS_URL name engines elsewhere; there are none of this checkout.")
    return engines


def _engine_status(engines: Engines) -> dict[str, Any]:
    items = []
    for engine in engines.running:
        is_running = engine.is_ready()
        socket = ".s.PGSQL.5432" if engine.name == "postgres" else "redis.sock"
        items.append(
            {
                "name": engine.name,
                "is_running": is_running,
                "version": _version(engines, engine.name) if is_running else None,
                "socket": str(engines.run / socket),
                "log": str(engine.log),
            }
        )
    return {"owner_pid": engines.owner_pid(), "data": str(engines.home), "engines": items}


def _version(engines: Engines, name: str) -> str:
    if name == "redis":
        with redis.Redis(unix_socket_path=str(engines.run / "redis.sock"), socket_timeout=2) as client:
            return str(client.info("server")["redis_version"])
    connection = engines.postgres.superuser("postgres")
    try:
        number = connection.info.server_version
    finally:
        connection.close()
    return f"{number // 10_000}.{number % 10_000}" if number else POSTGRES_MAJOR


def _status_lines(status: dict[str, Any]) -> list[str]:
    lines = [f"data      {status['data']}"]
    for engine in status["engines"]:
        state = f"{engine['version']} running" if engine["is_running"] else "not running"
        lines.append(f"{engine['name']:<9} {state}, socket {engine['socket']}, log {engine['log']}")
    return lines
