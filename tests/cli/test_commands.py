"""Rules of every command: help with an example, errors as one line with a hint, JSON output, exit codes."""

import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result
from flask import Flask

from saas_api import cli
from saas_api.cli import help_text
from saas_api.cli.errors import Command
from tests.support import forks
from tests.support.accounts import User

ROOT = Path(__file__).resolve().parents[2]
UNKNOWN_ORGANIZATION = f"org_{1:032x}"
DOCUMENT_GROUPS = {"openapi", "errors", "settings", "cli"}  # their commands write files and name them
WITHOUT_JSON = {"worker", "scheduler", "dev up", "dev engines start", "dev engines stop", "dev engines psql"}
WITHOUT_JSON |= {"dev engines reset", "dev prepare", "demo seed", "db roles", "cells run"}


def run(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=[*arguments])


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if path == "db " and not isinstance(command, Command):  # Flask-Migrate's
            continue
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def test_every_command_has_a_description_and_an_example(app: Flask) -> None:
    incomplete = []
    for path, command in commands(app.cli):
        text, examples = command.text_and_examples() if isinstance(command, Command) else ("", [])
        if not text or not all(f"flask {path}" in example for example in examples) or not examples:
            incomplete.append(path)
    assert not incomplete


def test_every_command_of_the_package_is_registered_once(app: Flask) -> None:
    registered = [id(command) for _, command in commands(app.cli)]
    defined = {
        id(value)
        for module in pkgutil.walk_packages(cli.__path__, f"{cli.__name__}.")
        for value in vars(import_module(module.name)).values()
        if isinstance(value, click.Command) and not isinstance(value, click.Group)
    }
    assert len(registered) == len(set(registered))
    assert defined <= set(registered)


def test_every_option_has_a_description(app: Flask) -> None:
    undocumented = [
        f"{path} {option.opts[-1]}"
        for path, command in commands(app.cli)
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden and not option.help and not option.show_default
    ]
    assert not undocumented


def test_every_command_with_a_result_has_the_json_option(app: Flask) -> None:
    without = {
        path
        for path, command in commands(app.cli)
        if path.split()[0] not in DOCUMENT_GROUPS and not any("--json" in option.opts for option in command.params)
    }
    assert without <= WITHOUT_JSON


def test_help_shows_examples_on_lines_of_their_own(app: Flask) -> None:
    lines = run(app, "operator", "impersonate", "--help").output.splitlines()
    line_number = lines.index("Example:")
    assert lines[line_number + 1] == (
        '  flask operator impersonate olga@platform.example org_... --reason "ticket 4711: wrong figures"'
    )


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [
        (["worker"], {"saas_api.routes", "saas_api.dashboard.blueprint", "saas_api.cli.commands.billing", "alembic"}),
        (["dev", "up"], {"saas_api.app", "saas_api.billing", "saas_api.messages", "alembic"}),
    ],
)
def test_process_imports_what_it_runs(config: dict[str, Any], command: list[str], unneeded: set[str]) -> None:
    program = (
        "import sys, click; click.get_current_context = lambda **_: object()\n"
        f"sys.argv = ['flask', *{command}]\nimport wsgi\nprint(*sys.modules)"
    )
    environment = {**os.environ, **forks.engines_of(config)}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert not unneeded & {*result.stdout.split()}


@pytest.mark.parametrize("words", [[], ["billing"], ["keys", "create"], ["db", "roles"]])
def test_help_does_not_import_the_product(app: Flask, words: list[str]) -> None:
    """Small: the help of every command but the whole list cost two seconds of CPU."""
    command = [sys.executable, "-X", "importtime", "-m", "flask", *words, "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert result.returncode == 0
    assert not {name for name in loaded if name.partition(".")[0] in {"sqlalchemy", "config", "pydantic", "redis"}}
    assert {name for name in loaded if name.startswith("saas_api")} == {
        "saas_api",
        "saas_api.cli",
        "saas_api.cli.help_text",
        "saas_api.core",
        "saas_api.core.domain",
    }
    if not words:
        listed = {arguments[0] for line in result.stdout.splitlines() if (arguments := line.split())}
        assert set(app.cli.commands) <= listed
        assert not {"limiter", "generate-api-schema", "routes", "run", "shell"} & listed


def help_pages(commands: dict[str, click.Command], path: str = "flask") -> Iterator[tuple[str, str]]:
    """The help of every command, as `--help` prints it."""
    for name, command in commands.items():
        own_path = f"{path} {name}"
        yield own_path, command.get_help(click.Context(command, info_name=own_path, terminal_width=100))
        if isinstance(command, click.Group):
            yield from help_pages(command.commands, own_path)


def test_stored_help_is_that_of_the_commands(app: Flask) -> None:
    stored = {name: help_text.build(name, command) for name, command in help_text.read_commands().items()}
    assert dict(help_pages(stored)) == dict(help_pages(app.cli.commands))


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("flask ", None),
        ("flask ke", {"keys"}),
        ("flask audit ", {"verify"}),
        ("flask audit verify --h", {"--head", "--help"}),
        ("flask keys create --mode ", {"live", "test"}),
        ("flask db ro", {"roles"}),
    ],
)
def test_completion_offers_the_commands_of_the_product(app: Flask, typed: str, words: set[str] | None) -> None:
    """Small: completion offered five commands of libraries and none of ours."""
    completion = {
        "_FLASK_COMPLETE": "bash_complete",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(f"{typed}.".split()) - 1),
    }
    result = forks.run_flask(environment=completion)
    offered = {line.partition(",")[2] for line in result.stdout.splitlines()}
    assert offered == (words or set(app.cli.commands)), result.stderr


@pytest.mark.parametrize("arguments", [["billing", "close"], ["schedule", "list"], ["db", "current"]])
def test_unreachable_postgresql_is_one_line(arguments: list[str]) -> None:
    result = forks.run_flask(*arguments, environment={"DATABASE_URL": "postgresql://saas@127.0.0.1:1/saas"})
    assert result.returncode == 1
    assert "PostgreSQL cannot be reached" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_unknown_organization_is_an_error(app: Flask) -> None:
    for arguments in (["billing", "close"], ["billing", "invariants"], ["usage", "rebuild"], ["keys", "list"]):
        result = run(app, *arguments, "--organization", UNKNOWN_ORGANIZATION)
        assert result.exit_code == 1, result.output
        assert (
            result.stderr
            == f"There is no organization {UNKNOWN_ORGANIZATION}; its id stands in its dashboard's settings.\n"
        )
        assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["keys", "list"], "Missing option '--organization'."),
        (["keys", "list", "--organization", "org_1"], "'org_1' is no id"),
        (["keys", "nonsense"], "No such command 'nonsense'."),
        (["webhooks", "recover", f"whe_{1:032x}", "--since", "yesterday"], "'yesterday' is no time"),
        (["schedule", "run", "nothing.here"], "is not one of"),
        (["dunning", "run", "--at", "tomorrow"], "'tomorrow' is no time"),
    ],
)
def test_wrong_use_is_one_line_that_names_the_help(app: Flask, arguments: list[str], part: str) -> None:
    result = run(app, *arguments)
    [line] = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (2, "")
    assert part in line
    assert line.endswith("--help.")


def test_error_of_a_service_is_one_line_with_its_code(app: Flask, alice: User) -> None:
    nothing = f"inv_{1:032x}"
    result = run(app, "billing", "void", alice.organization_id, nothing, "--reason", "wrong tax id")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "NOT_FOUND: Not found. Look whether the id is whole and of this organization."
    ]


@pytest.mark.parametrize(
    "arguments",
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
        ["secrets", "reencrypt"],
    ],
)
def test_json_output_is_one_object_on_stdout(app: Flask, alice: User, arguments: list[str]) -> None:
    result = run(app, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    assert isinstance(json.loads(result.stdout), dict)
    assert result.stdout.count("\n") == 1


def test_progress_bar_is_not_on_stdout(app: Flask, alice: User) -> None:
    result = run(app, "billing", "invariants")
    assert "Checking the books" in result.stderr
    assert "Checking the books" not in result.stdout


def test_invalid_line_of_the_env_file_is_named(tmp_path: Path) -> None:
    from config import ConfigurationError, load

    path = tmp_path / ".env"
    path.write_text("API_PORT=1\nthis is not one\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"\.env line 2"):
        load(env_file=path)
