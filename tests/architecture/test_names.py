"""Names: file names without meaning, class names that occur twice, and how callers refer to functions."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from flask import Flask

from saas_api.core import domain
from saas_api.core.jobs import queue
from tests.architecture.source import PACKAGE, calls, imported, sources, tree

EMPTY_WORDS = {"utils", "helpers", "common", "misc", "base", "manager", "handler"}
IMPORTED_BY_NAME = {  # decorators, and functions that every package uses
    "create_app",
    "drain",
    "endpoint",
    "fault_point",
    "form_view",
    "get_logger",
    "metered",
    "public_page",
    "public_view",
    "require_operator",
    "require_permission",
    "require_portal_session",
    "require_service",
    "scheduled",
    "setting",
    "setting_field",
}


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert not [path for path in sources() if path.stem in EMPTY_WORDS]


def test_class_names_occur_once() -> None:
    names = Counter(node.name for path in sources() for node in tree(path).body if isinstance(node, ast.ClassDef))
    assert not {name: count for name, count in names.items() if count > 1}


def test_packages_export_nothing_but_their_declaration() -> None:
    for path in sources():
        if path.name != "__init__.py" or path.parent.name in {"net", "cli"}:
            continue
        kinds = {type(node) for node in tree(path).body}
        assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign}, path
        names = [
            ast.unparse(target) for node in tree(path).body if isinstance(node, ast.Assign) for target in node.targets
        ]
        assert set(names) <= {"DOMAIN"}, path


def test_functions_are_called_through_their_module() -> None:
    functions = {
        (module_name(path), node.name)
        for path in sources()
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef)
    }
    by_name = [
        (str(path), alias.name)
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (node.module, alias.name) in functions and alias.name not in IMPORTED_BY_NAME
    ]
    assert by_name == []


def module_name(path: Path) -> str:
    """Dotted name of a module of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_only_core_commits_and_rolls_back() -> None:
    for path in sources():
        if path.is_relative_to(PACKAGE / "core") or path == PACKAGE / "ops" / "cell_moves.py":
            continue  # a move orders the commits of two databases
        assert not [name for name, _ in calls(path) if name in {"commit", "rollback"}], path


def test_every_job_that_is_woken_is_registered(app: Flask) -> None:
    constants = [pair for path in sources() for pair in text_constants(path)]  # packages use the same name for theirs
    woken = set()
    for path in sources():
        for name, node in calls(path):
            if name in {"enqueue", "wake_workers"} and ast.unparse(node.func).startswith(("queue.", "job_queue.")):
                names = [ast.unparse(argument).rpartition(".")[2] for argument in node.args]
                woken |= {value for constant, value in constants if constant in names}
                woken |= {literal.value for literal in node.args if isinstance(literal, ast.Constant)}
    assert woken >= {"messages.drain", "webhooks.drain", "mail.drain", "payments.inbox"}
    assert woken <= queue._jobs.keys()


def test_factory_imports_every_jobs_module() -> None:
    modules = {module_name(path) for path in sources() if path.name == "jobs.py"}
    assert modules <= set(imported(PACKAGE / "app.py"))


def text_constants(path: Path) -> Iterator[tuple[str, str]]:
    """Names and values of a module's string constants."""
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield ast.unparse(node.targets[0]), node.value.value


def test_core_names_no_domain(app: Flask) -> None:
    domains = [name for name in domain.registry.domains if not name.startswith("core.")]
    name_of_a_domain = re.compile(rf"({'|'.join(domains)})[.:][a-z]")
    assert name_of_a_domain.match("messages.drain")
    for path in sources(PACKAGE / "core"):
        literals = [node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)]
        assert not [text for text in literals if isinstance(text, str) and name_of_a_domain.match(text)], path


def test_linter_exceptions_carry_their_reason() -> None:
    bare = re.compile(r"# (noqa: [A-Z0-9, ]+|type: ignore(\[[a-z-, ]+\])?)\s*$")
    for path in sources():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not bare.search(line), f"{path}:{number}"


def test_no_code_names_a_meter_except_the_service_that_has_it() -> None:
    own = tuple(PACKAGE / name for name in ("demo", "messages", "providers"))
    named = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sources()
        if not any(path.is_relative_to(folder) for folder in own)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"""(["'])(sms|email)\1""", line)
    ]
    assert named == []
