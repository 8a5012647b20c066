"""What every command keeps to: help with an example, errors as one line with a hint, one JSON object, exit codes."""

import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import Result
from flask import Flask

from saas_api import cli
from saas_api.cli.errors import Command
from tests.support import forks
from tests.support.accounts import Person

ROOT = Path(__file__).resolve().parents[2]
NOBODY = f"org_{1:032x}"
DIFFERENT = {"openapi", "errors", "settings", "cli"}  # these write files, and say which
WITHOUT_JSON = {"worker", "scheduler", "dev up", "dev engines start", "dev engines stop", "dev engines psql"}
WITHOUT_JSON |= {"dev engines reset", "demo seed"}


def ask(app: Flask, *words: str) -> Result:
    return app.test_cli_runner().invoke(args=[*words])


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if name == "db":  # Flask-Migrate's
            continue
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def test_every_command_explains_itself_with_an_example(app: Flask) -> None:
    bare = []
    for path, command in commands(app.cli):
        text, examples = command.text_and_examples() if isinstance(command, Command) else ("", [])
        if not text or not all(f"flask {path}" in example for example in examples) or not examples:
            bare.append(path)
    assert not bare


def test_every_command_of_the_package_is_registered_once(app: Flask) -> None:
    registered = [id(command) for _, command in commands(app.cli)]
    defined = {
        id(found)
        for module in pkgutil.walk_packages(cli.__path__, f"{cli.__name__}.")
        for found in vars(import_module(module.name)).values()
        if isinstance(found, click.Command) and not isinstance(found, click.Group)
    }
    assert len(registered) == len(set(registered))
    assert defined <= set(registered)


def test_every_option_says_what_it_is_for(app: Flask) -> None:
    silent = [
        f"{path} {option.opts[-1]}"
        for path, command in commands(app.cli)
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden and not option.help and not option.show_default
    ]
    assert not silent


def test_every_command_that_answers_answers_in_json_too(app: Flask) -> None:
    without = {
        path
        for path, command in commands(app.cli)
        if path.split()[0] not in DIFFERENT and not any("--json" in option.opts for option in command.params)
    }
    assert without <= WITHOUT_JSON


def test_help_shows_an_example_as_one_types_it(app: Flask) -> None:
    lines = ask(app, "operator", "impersonate", "--help").output.splitlines()
    at = lines.index("Example:")
    assert lines[at + 1] == (
        '  flask operator impersonate olga@platform.example org_... --reason "ticket 4711: wrong figures"'
    )


def test_help_for_all_loads_nothing_of_the_product(app: Flask) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "flask", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert not {name for name in loaded if name.partition(".")[0] in {"saas_api", "sqlalchemy", "config", "pydantic"}}
    listed = {words[0] for line in done.stdout.splitlines() if (words := line.split())}
    assert set(app.cli.commands) <= listed


@pytest.mark.parametrize("arguments", [["billing", "close"], ["schedule", "list"], ["db", "current"]])
def test_an_engine_that_is_away_is_one_line(arguments: list[str]) -> None:
    done = forks.run_flask(*arguments, environment={"DATABASE_URL": "postgresql://saas@127.0.0.1:1/saas"})
    assert done.returncode == 1
    assert "PostgreSQL cannot be reached" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_organization_that_is_none_is_an_error(app: Flask) -> None:
    for words in (["billing", "close"], ["billing", "invariants"], ["usage", "rebuild"], ["keys", "list"]):
        done = ask(app, *words, "--organization", NOBODY)
        assert done.exit_code == 1, done.output
        assert done.stderr == f"There is no organization {NOBODY}; its id stands in its dashboard's settings.\n"
        assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["keys", "list"], "Missing option '--organization'."),
        (["keys", "list", "--organization", "org_1"], "'org_1' is no id"),
        (["keys", "nonsense"], "No such command 'nonsense'."),
        (["webhooks", "recover", f"whe_{1:032x}", "--since", "yesterday"], "'yesterday' is no time"),
        (["schedule", "run", "nothing.here"], "is not one of"),
        (["dunning", "run", "--at", "tomorrow"], "'tomorrow' is no time"),
    ],
)
def test_wrong_use_is_one_line_that_leads_to_the_help(app: Flask, words: list[str], part: str) -> None:
    done = ask(app, *words)
    [line] = done.stderr.splitlines()
    assert (done.exit_code, done.stdout) == (2, "")
    assert part in line
    assert line.endswith("--help.")


def test_what_a_service_refuses_is_one_line_with_its_code(app: Flask, alice: Person) -> None:
    nothing = f"inv_{1:032x}"
    done = ask(app, "billing", "void", alice.organization_id, nothing, "--reason", "wrong tax id")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "NOT_FOUND: There is nothing here. Look whether the id is whole and of this organization."
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["billing", "close"],
        ["billing", "sync"],
        ["billing", "invariants"],
        ["dunning", "list"],
        ["dunning", "run"],
        ["payments", "list"],
        ["payments", "refund"],
        ["plans", "list"],
        ["mail", "outbox"],
        ["operator", "list"],
        ["schedule", "list"],
        ["schedule", "run", "usage.roll_up"],
        ["usage", "rebuild"],
        ["webhooks", "reencrypt"],
    ],
)
def test_json_is_one_object_on_stdout_and_nothing_else(app: Flask, alice: Person, words: list[str]) -> None:
    done = ask(app, *words, "--json")
    assert done.exit_code == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)
    assert done.stdout.count("\n") == 1


def test_the_bar_of_long_work_is_off_stdout(app: Flask, alice: Person) -> None:
    done = ask(app, "billing", "invariants")
    assert "Checking the books" in done.stderr
    assert "Checking the books" not in done.stdout


def test_an_unreadable_env_file_is_named(tmp_path: Path) -> None:
    from config import ConfigurationError, load

    path = tmp_path / ".env"
    path.write_text("API_PORT=1\nthis is not one\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"\.env line 2"):
        load(env_file=path)
