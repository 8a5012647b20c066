"""Migrations after the first release run while calls are served: none of them locks a table for long."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

BASELINE = "0025"
"""Migrations up to this one run before the first release; 0024 and 0025 copy a table, so calls have to stop."""
BEFORE_RELEASE = {"0029", "0030"}
"""So do these, and calls have to stop: 0029 copies a table, 0030 makes a table a partition of a new one of its name."""
SQUAWK = Path(sys.executable).with_name("squawk")
# Matters of taste; lock_timeout is set by migrations/env.py for every migration.
IGNORED = ("prefer-bigint-over-int", "prefer-bigint-over-smallint", "prefer-robust-stmts", "prefer-text-field")
IGNORED += ("prefer-timestamp-tz", "prefer-identity", "require-lock-timeout", "require-statement-timeout")
LATER = [
    path
    for path in sorted((ROOT / "migrations" / "versions").glob("[0-9]*.py"))
    if path.name.split("_")[0] > BASELINE and path.name.split("_")[0] not in BEFORE_RELEASE
]
SQL = re.compile(r"\s*(--|ALTER|CREATE|DELETE|DO|DROP|GRANT|INSERT|REVOKE|SELECT|SET|UPDATE|WITH)\b", re.IGNORECASE)


def find_locks(sql: str) -> str:
    """What squawk says about SQL; nothing when it locks no table for long."""
    command = [SQUAWK, "--stdin-filepath", "migration.sql", "--pg-version", "14", "--reporter", "gcc"]
    excluded = [f"--exclude={rule}" for rule in IGNORED]
    result = subprocess.run([*command, *excluded], input=sql, capture_output=True, text=True, check=False)
    return result.stdout


def sql_of(module: ast.Module) -> str:
    """The statements in the texts of a migration."""
    texts = (node.value for node in ast.walk(module) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return ";\n".join(text.rstrip().rstrip(";") for text in texts if SQL.match(text))


@pytest.mark.parametrize("path", LATER, ids=lambda path: path.stem)
def test_migration_locks_no_table_for_long(path: Path) -> None:
    module = ast.parse(path.read_text(encoding="utf-8"))
    upgrade = ast.Module([node for node in module.body if getattr(node, "name", "") != "downgrade"], [])
    assert find_locks(sql_of(upgrade)) == ""


def test_operators_are_told_for_which_migrations_calls_have_to_stop() -> None:
    upgrades = (
        (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").split("\n## Upgrades\n")[1].split("\n## ")[0]
    )
    assert set(re.findall(r"\b00\d\d\b", upgrades)) == {"0024", BASELINE} | BEFORE_RELEASE


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE INDEX i ON messages (recipient)",
        "ALTER TABLE messages ALTER COLUMN recipient SET NOT NULL",
        "ALTER TABLE messages ADD CONSTRAINT c CHECK (segments > 0)",
        "ALTER TABLE messages ALTER COLUMN segments TYPE bigint",
        "ALTER TABLE messages DROP COLUMN subject",
        "ALTER TABLE messages RENAME COLUMN body TO content",
    ],
)
def test_migration_that_locks_or_breaks_the_running_release_is_found(sql: str) -> None:
    module = ast.parse(f'"""Change a table."""\nop.execute("""{sql}""")')
    assert find_locks(sql_of(module)) != ""


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE INDEX CONCURRENTLY i ON messages (recipient)",
        "ALTER TABLE messages ADD COLUMN note text",
        "ALTER TABLE messages ADD CONSTRAINT c CHECK (segments > 0) NOT VALID",
        "CREATE TABLE notes (id uuid PRIMARY KEY)",
        "GRANT SELECT ON notes TO saas_tenant",
    ],
)
def test_migration_that_locks_nothing_is_accepted(sql: str) -> None:
    assert find_locks(sql) == ""
