"""`flask dev engines`: start in the background, status, stop and reset, as in a shell."""

import json
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from saas_api import cli
from saas_api.app import create_app
from saas_api.cli.commands import engines
from saas_api.cli.dev.engines import Engines
from saas_api.settings import instance
from tests.support import forks
from tests.support.installations import is_alive, open_directory


class Shell:
    """Runs commands about the engines of a directory."""

    def __init__(self, instance: Path, connection: Connection) -> None:
        self.instance = instance
        self._connection = connection

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        self._connection.send(arguments)
        code, out, err = self._connection.recv()
        return code, out, err

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.run("status", "--json")[1]))


def serve(connection: Connection, config: dict[str, Any], path: Path) -> None:
    """Run each received command in a process that can fork another one, which owns the engines."""
    database_url, redis_url = instance.engine_urls(path)
    app = create_app({**config, "DATABASE_URL": database_url, "REDIS_URL": redis_url, "INSTANCE": str(path)})
    cli.init_app(app)
    while True:
        result = app.test_cli_runner().invoke(args=["dev", "engines", *connection.recv()])
        connection.send((result.exit_code, result.stdout, result.stderr))


@pytest.fixture
def shell(config: dict[str, Any]) -> Iterator[Shell]:
    with open_directory() as directory:
        (directory / "instance").mkdir()
        with forks.talking(serve, config, directory / "instance", environment={}) as connection:
            running = Shell(directory / "instance", connection)
            yield running
            running.run("stop")


@pytest.mark.long
def test_engines_start_report_status_stop_and_reset(shell: Shell) -> None:
    nothing = shell.status()
    assert [engine["is_running"] for engine in nothing["engines"]] == [False, False]
    assert shell.run("psql")[2].startswith("The engines do not run;")

    code, out, err = shell.run("start")
    assert code == 0, err
    status = shell.status()
    owner = status["owner_pid"]
    assert f"They run in process {owner};" in out
    assert is_alive(owner)
    assert [(engine["name"], engine["is_running"]) for engine in status["engines"]] == [
        ("postgres", True),
        ("redis", True),
    ]
    assert status["engines"][0]["version"].startswith("18.")
    assert Path(status["engines"][1]["socket"]).exists()

    assert shell.run("start")[1].startswith(f"They run already, in process {owner}.")
    code, _, err = shell.run("reset", "--yes")
    assert (code, err) == (1, "The engines run; stop them first: flask dev engines stop.\n")

    assert shell.run("stop")[1] == f"They are stopped, and so is process {owner}, which ran them.\n"
    assert shell.run("stop")[1] == "They do not run.\n"
    assert [engine["is_running"] for engine in shell.status()["engines"]] == [False, False]

    assert Engines(shell.instance).postgres.data.exists()
    code, _, err = shell.run("reset")
    assert (code, "give --yes" in err) == (2, True)
    assert Engines(shell.instance).postgres.data.exists()
    assert shell.run("reset", "--yes")[0] == 0
    assert not Engines(shell.instance).postgres.data.exists()


def test_external_engines_are_not_managed(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "DATABASE_URL", "postgresql+psycopg2://saas@db.example/saas")
    for verb in ("start", "stop", "status", "reset"):
        done = app.test_cli_runner().invoke(args=["dev", "engines", verb])
        assert done.exit_code == 1
        assert done.stderr.startswith("DATABASE_URL and REDIS_URL name engines elsewhere;")


def test_psql_sees_the_rows_of_every_organization(engines: Engines, alice: Any, tmp_path: Path) -> None:
    output = tmp_path / "said"
    pid = forks.start(ask_psql, engines.instance, environment={}, output=(str(output), ""))
    assert (forks.wait(pid, 60), output.read_text()) == (0, "Acme\n")


def ask_psql(instance: Path) -> None:
    engines.exec_psql(Engines(instance), ["-Atc", "SELECT name FROM organizations"])
