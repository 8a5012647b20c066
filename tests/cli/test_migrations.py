"""`flask db`: the check compares models with a migrated database, and nothing is generated from models."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask

from saas_api.core.db.engine import db

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ROOT / "migrations" / "versions"


@pytest.fixture
def undeclared_table() -> Iterator[None]:
    """A model's table that no migration creates."""
    table = sa.Table("table_without_migration", db.metadata, sa.Column("id", sa.Integer, primary_key=True))
    yield
    db.metadata.remove(table)


def test_check_of_a_migrated_database_finds_no_difference(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    result = app.test_cli_runner().invoke(args=["db", "check"])
    assert (result.exit_code, caplog.text) == (0, "")


def test_check_names_a_table_that_no_migration_creates(
    app: Flask, undeclared_table: None, caplog: pytest.LogCaptureFixture
) -> None:
    result = app.test_cli_runner().invoke(args=["db", "check"])
    assert result.exit_code == 1
    assert "table_without_migration" in caplog.text


@pytest.mark.parametrize("arguments", [["migrate"], ["revision", "--autogenerate"]])
def test_autogenerate_is_refused_with_the_command_to_use_instead(
    app: Flask, caplog: pytest.LogCaptureFixture, arguments: list[str]
) -> None:
    files = sorted(VERSIONS.glob("*.py"))
    result = app.test_cli_runner().invoke(args=["db", *arguments])
    assert result.exit_code == 1
    assert "Create an empty one with flask db revision" in caplog.text
    assert sorted(VERSIONS.glob("*.py")) == files
