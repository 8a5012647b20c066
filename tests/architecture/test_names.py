"""Names: the closed lists of rooms and of files in a room, and words that say nothing."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from flask import Flask

from saas_api.core import domain
from saas_api.core.jobs import queue
from tests.architecture.source import FACES, FLOORS, PACKAGE, ROOMS, calls, imported, sources, tree

EMPTY_WORDS = {"utils", "helpers", "common", "misc", "base", "manager", "handler"}


def test_a_room_holds_only_the_files_of_the_floors() -> None:
    for room in (*ROOMS, *FACES):
        found = {path.stem for path in (PACKAGE / room).iterdir() if path.suffix == ".py" or path.name in FLOORS}
        assert found - FLOORS == {"__init__"}, room


def test_every_folder_of_the_package_is_a_room_a_face_or_the_ground() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == {*ROOMS, *FACES, "core", "providers", "gate", "cli"}


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert not [path for path in sources() if path.stem in EMPTY_WORDS]


def test_a_blueprint_is_called_as_its_room() -> None:
    for room in (*ROOMS, *FACES):
        folder = PACKAGE / room
        doors = [*folder.glob("routes.py"), *folder.glob("routes/__init__.py")]
        made = [node.args[0] for path in doors for name, node in calls(path) if name == "Blueprint"]
        assert {name.value for name in made if isinstance(name, ast.Constant)} <= {room}, room


def test_schemas_are_imported_by_their_own_routes_only() -> None:
    for path in sources():
        room = path.relative_to(PACKAGE).parts[0]
        for name in imported(path):
            if match := re.match(r"saas_api\.(\w+)\.schemas\b", name):
                is_own_door = match[1] == room and "routes" in str(path.relative_to(PACKAGE))
                is_own_schema = match[1] == room and "schemas" in str(path.relative_to(PACKAGE))
                assert is_own_door or is_own_schema, f"{path} imports {name}"


def test_only_the_core_commits_and_rolls_back() -> None:
    for path in sources():
        if path.is_relative_to(PACKAGE / "core"):
            continue
        assert not [name for name, _ in calls(path) if name in {"commit", "rollback"}], path


def test_every_job_that_is_woken_is_registered(app: Flask) -> None:
    constants = [pair for path in sources() for pair in texts(path)]  # packages use the same name for theirs
    woken = set()
    for path in sources():
        for name, node in calls(path):
            if name in {"enqueue", "wake"}:
                words = [ast.unparse(argument).rpartition(".")[2] for argument in node.args]
                woken |= {value for name_of, value in constants if name_of in words}
                woken |= {literal.value for literal in node.args if isinstance(literal, ast.Constant)}
    assert woken >= {"messages.drain", "webhooks.drain", "mail.drain", "payments.inbox"}
    assert woken <= set(queue.job_names())


def test_core_names_no_domain(app: Flask) -> None:
    domains = [name for name in domain.registry.domains if not name.startswith("core.")]
    of_a_domain = re.compile(rf"({'|'.join(domains)})[.:][a-z]")
    assert of_a_domain.match("messages.drain")
    for path in sources(PACKAGE / "core"):
        literals = [node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)]
        assert not [text for text in literals if isinstance(text, str) and of_a_domain.match(text)], path


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """Constants of a module that are text."""
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield ast.unparse(node.targets[0]), node.value.value


def test_exceptions_from_the_linters_carry_their_reason() -> None:
    bare = re.compile(r"# (noqa: [A-Z0-9, ]+|type: ignore(\[[a-z-, ]+\])?)\s*$")
    for path in sources():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not bare.search(line), f"{path}:{number}"
