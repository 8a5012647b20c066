"""docs/cli.md and the index of `flask --help` are generated from the commands, and are current."""

from pathlib import Path

from flask import Flask

from saas_api.cli.commands import documents
from saas_api.cli.help_text import COMMANDS_FILE

ROOT = Path(__file__).resolve().parents[2]


def test_page_about_commands_is_current(app: Flask) -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == documents.cli_page(app.cli), "run flask cli export"


def test_index_of_commands_is_current(app: Flask) -> None:
    assert COMMANDS_FILE.read_text(encoding="utf-8") == documents.command_index(app.cli), "run flask cli export"


def test_page_about_commands_is_exported_and_checked(app: Flask, tmp_path: Path) -> None:
    runner, output = app.test_cli_runner(), tmp_path / "cli.md"
    assert runner.invoke(args=["cli", "export", "--check", "--output", str(output)]).exit_code == 3
    assert not output.exists()
    assert runner.invoke(args=["cli", "export", "--output", str(output)]).exit_code == 0
    assert runner.invoke(args=["cli", "export", "--check", "--output", str(output)]).exit_code == 0
    output.write_text("stale", encoding="utf-8")
    stale = runner.invoke(args=["cli", "export", "--check", "--output", str(output)])
    assert (stale.exit_code, "is stale" in stale.stderr) == (3, True)


def test_hidden_options_are_not_in_the_page(app: Flask) -> None:
    page = documents.cli_page(app.cli)
    assert "--parent" not in page
    assert "### flask keys create" in page
    assert "### flask dev engines reset" in page
