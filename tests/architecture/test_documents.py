"""Generated documents are current, and documents name modules that exist."""

import hashlib
import re
from pathlib import Path

import click
import orjson
import pytest
from flask import Flask

from bench import report, tables
from config import Settings
from saas_api.cli.commands import documents
from tests.architecture.source import ROOT

COMMAND = re.compile(r"(?:`|^)(?:[A-Z_]+=\S* )*flask ([a-z][^`\n|]*)", re.MULTILINE)
"""A command in a block or within a sentence."""


def test_settings_page_is_current() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == documents.settings_page(Settings.model_fields), "run make docs"


def test_example_environment_is_current() -> None:
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == documents.env_example(Settings.model_fields)


def test_example_environment_has_exactly_the_settings() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"^#([A-Z_]+)=", text, re.MULTILINE)) == set(Settings.model_fields)


@pytest.mark.parametrize("path", tables.PAGES, ids=lambda path: path.name)
def test_figures_of_benchmarks_are_those_of_the_latest_run(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert page == tables.fill(page, report.read_results()), "run python -m bench.tables"


def test_committed_openapi_document_is_the_served_one(app: Flask) -> None:
    committed = (ROOT / "docs" / "openapi.json").read_text(encoding="utf-8")
    [server] = orjson.loads(committed)["servers"]
    served = app.test_client().get("/api/v1/openapi.json").json
    assert orjson.loads(committed.replace(server["url"], served["servers"][0]["url"])) == served, "run make docs"


def test_every_direct_dependency_has_its_reason() -> None:
    page = (ROOT / "docs" / "libraries.md").read_text(encoding="utf-8")
    for name in ("requirements.txt", "requirements-dev.txt"):
        direct = (ROOT / name).read_text(encoding="utf-8").partition("# what these need")[0]
        for package in re.findall(r"^([a-z0-9-]+)==", direct, re.MULTILINE):
            assert f"`{package}`" in page, package


def test_documents_name_modules_that_exist() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    names = {
        (page.name, name)
        for page in pages
        for name in re.findall(r"`([a-z_]+(?:/[a-z_]+)+\.(?:py|lua))`", page.read_text(encoding="utf-8"))
    }
    assert (
        sorted(
            (page, name)
            for page, name in names
            if not (ROOT / name).exists() and not (ROOT / "saas_api" / name).exists()
        )
        == []
    )


def test_commands_that_documents_name_exist(app: Flask) -> None:
    """A runbook whose command has another name fails when it is needed."""
    wrong: list[str] = []
    found = 0
    for path in sorted({*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "cli.md"}):  # which is made from the commands
        for text in COMMAND.findall(path.read_text(encoding="utf-8")):
            words = text.partition(" #")[0].split()
            if words[:2] == ["cells", "run"]:
                words = words[3:]
            command: click.Command = app.cli
            while words and isinstance(command, click.Group) and (named := command.commands.get(words[0])):
                command, words = named, words[1:]
            options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
            unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in options]
            is_group = isinstance(command, click.Group) and bool(words) and not words[0].startswith("-")
            wrong += [f"{path.name}: {text}"] if command is app.cli or is_group or unknown else []
            found += 1
    assert wrong == []
    assert found > 50, found


def test_vendored_files_are_those_that_were_published() -> None:
    """Small: a wheel for Django brought one script."""
    folder = ROOT / "saas_api" / "static" / "vendor"
    sums = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    files = {path.name for path in folder.iterdir()}
    assert files == {*sums, "SHA256SUMS", "htmx.LICENSE"}
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    listed = (ROOT / "docs" / "libraries.md").read_text(encoding="utf-8")
    assert not [name for name in sums if f"`{name}`" not in listed]
