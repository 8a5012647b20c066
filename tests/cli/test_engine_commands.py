"""`flask dev engines`: started in the background, asked, stopped and emptied, as in a shell."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saas_api.cli.dev.engines import Engines
from tests.cli.places import is_alive, open_directory

ROOT = Path(__file__).resolve().parents[2]
# One process that has loaded the product runs each line it is given as a command and prints what came of it.
SHELL = """
import json, sys
from pathlib import Path
from config import load
from saas_api import cli, create_app
from saas_api.cli.dev.addresses import urls
instance = Path(sys.argv[1])
database_url, redis_url = urls(instance)
secrets = {"SECRET_KEY": "s" * 32, "JWT_SECRET": "j" * 32, "API_KEY_PEPPER": "1:" + "p" * 32}
settings = load(env_file=None, APP_ENV="test", DATABASE_URL=database_url, REDIS_URL=redis_url, **secrets)
app = create_app({**settings, "INSTANCE": str(instance)})
cli.init_app(app)
for line in sys.stdin:
    done = app.test_cli_runner().invoke(args=["dev", "engines", *json.loads(line)])
    print(json.dumps([done.exit_code, done.stdout, done.stderr]), flush=True)
"""


class Shell:
    """Runs commands about the engines of a directory."""

    def __init__(self, instance: Path) -> None:
        self.instance = instance
        self.process = subprocess.Popen(
            [sys.executable, "-c", SHELL, str(instance)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        code, out, err = json.loads(self.process.stdout.readline())
        return code, out, err

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.run("status", "--json")[1]))


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with open_directory() as directory:
        (directory / "instance").mkdir()
        running = Shell(directory / "instance")
        yield running
        running.run("stop")
        assert running.process.stdin
        assert running.process.stdout
        running.process.stdin.close()
        running.process.stdout.close()
        running.process.wait(10)


def test_they_start_are_asked_stop_and_are_emptied(shell: Shell) -> None:
    nothing = shell.status()
    assert [engine["is_running"] for engine in nothing["engines"]] == [False, False]
    assert shell.run("psql")[2].startswith("The engines do not run;")

    code, out, err = shell.run("start")
    assert code == 0, err
    found = shell.status()
    owner = found["owner_pid"]
    assert f"They run in process {owner};" in out
    assert is_alive(owner)
    assert [(engine["name"], engine["is_running"]) for engine in found["engines"]] == [
        ("postgres", True),
        ("redis", True),
    ]
    assert found["engines"][0]["version"].startswith("18.")
    assert Path(found["engines"][1]["socket"]).exists()

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


def test_engines_elsewhere_are_not_ours_to_start(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "DATABASE_URL", "postgresql+psycopg2://saas@db.example/saas")
    for verb in ("start", "stop", "status", "reset"):
        done = app.test_cli_runner().invoke(args=["dev", "engines", verb])
        assert done.exit_code == 1
        assert done.stderr.startswith("DATABASE_URL and REDIS_URL name engines elsewhere;")


def test_psql_sees_the_rows_of_every_organization(engines: Engines, alice: Any, config: dict[str, Any]) -> None:
    program = (
        "import sys; from pathlib import Path; from saas_api.cli.dev.commands.engines import open_psql\n"
        "from saas_api.cli.dev.engines import Engines\n"
        "open_psql(Engines(Path(sys.argv[1])), ['-Atc', 'SELECT name FROM organizations'])"
    )
    asked = [sys.executable, "-c", program, str(engines.instance)]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "Acme\n"), done.stderr
