"""Documents that are generated from code: the OpenAPI document and the pages about errors, settings and commands."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from http import HTTPStatus
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import orjson
import yaml
from flask import current_app
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from saas_api.cli import help_text
from saas_api.cli.errors import EXIT_PROBLEMS, Command, CommandGroup
from saas_api.docs import error_codes
from saas_api.docs import openapi as docs_openapi

MIGRATION_COMMANDS = "db"
"""Group of Flask-Migrate's commands, which it documents itself, and of ours."""
_INTRODUCTION = """# Command line

Made from the commands by `flask cli export`. They are run in the checkout, as `.venv/bin/flask NOUN VERB`; each has
`--help`.

- `--json` prints one object on stdout and nothing else; errors are one line on stderr that says what to do.
- Exit codes: 0 done, 1 failed, 2 used wrongly, 3 problems found (by a check).
- An id is read as the API writes it (`org_...`) or as a UUID; a time as in RFC 3339, without an offset as UTC.
- A command that changes something writes to the audit log, in the name of the operating system's user.
- Repeating a command is harmless.
- `eval "$(_FLASK_COMPLETE=bash_source .venv/bin/flask)"` completes commands and options (`zsh_source` in zsh).

`flask db upgrade` migrates the database (`flask db current` shows its revision, `flask db check` compares it with the
models, `flask db downgrade` goes back). It runs as DATABASE_OWNER_URL, and `flask db roles` prints the SQL that
creates the logins and roles. Migrations are written in SQL: `flask db revision` creates an empty one."""
_SETTINGS_INTRODUCTION = """# Settings

Settings come from the environment or from `.env` (see `.env.example`); the environment wins. A secret may also be read
from a file named by `<NAME>_FILE`. Invalid settings stop the start, with one line for each problem.

This page is generated from `config.py` by `flask settings export`."""

group = CommandGroup("cli", help="The page about the command line.")

check_option = click.option("--check", is_flag=True, help="Write nothing; exit 3 when the file is stale.")


openapi = CommandGroup("openapi", help="The OpenAPI document.")
errors = CommandGroup("errors", help="The page about error codes.")
settings = CommandGroup("settings", help="The page about settings, and .env.example.")


def output_option(default: str) -> Callable[..., Any]:
    """The option `--output`, a path relative to the current directory."""
    return click.option(
        "--output", type=click.Path(path_type=Path), default=default, show_default=True, help="Where to."
    )


@group.command("export")
@output_option("docs/cli.md")
@check_option
def export_cli_docs(output: Path, check: bool) -> None:
    """Write the page about every command, and the file from which --help and completion are answered.

    Example: flask cli export --check
    """
    write_or_check(
        {output: cli_page(current_app.cli), help_text.COMMANDS_FILE: command_index(current_app.cli)}, check=check
    )


def command_index(root: click.Group) -> str:
    """Every command as JSON, from which `--help` and completion are answered without the product."""
    commands = {name: help_text.describe(command) for name, command in sorted(root.commands.items())}
    return orjson.dumps(commands, option=orjson.OPT_INDENT_2).decode() + "\n"


def cli_page(root: click.Group) -> str:
    """Markdown page about every command below a group."""
    lines = [_INTRODUCTION]
    for name, command in sorted(root.commands.items()):
        lines += ["", f"## {name}"]
        if isinstance(command, click.Group):
            lines += ["", _first_line(command)]
        for path, leaf in _iter_leaves(f"flask {name}", command):
            if name != MIGRATION_COMMANDS or isinstance(leaf, Command):
                lines += ["", *_command_section(path, leaf)]
    return "\n".join(lines) + "\n"


def _iter_leaves(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, inner in command.commands.items():
        if not inner.hidden:
            yield from _iter_leaves(f"{path} {name}", inner)


def _command_section(path: str, command: click.Command) -> list[str]:
    context = click.Context(command, info_name=path)
    text, examples = command.text_and_examples() if isinstance(command, Command) else (command.help or "", [])
    lines = [f"### {path}", "", f"`{' '.join([path, *command.collect_usage_pieces(context)])}`", "", text]
    if examples:
        lines += ["", "```sh", *examples, "```"]
    records = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    rows = [f"| `{_cell(names)}` | {_cell(text)} |" for names, text in records if text and names != "--help"]
    return [*lines, *(["", "| option | meaning |", "|---|---|", *rows] if rows else [])]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _first_line(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").partition("\n\n")[0]


@openapi.command("export")
@click.option(
    "--format", "form", type=click.Choice(["json", "yaml"]), default="json", show_default=True, help="Of the file."
)
@click.option("--output", type=click.Path(path_type=Path), help="Where to; docs/openapi.json or .yaml if left out.")
@check_option
def export_openapi(form: str, output: Path | None, check: bool) -> None:
    """Write the document that /api/v1/openapi.json serves, for the server that APP_URL names.

    Example: flask openapi export --check
    flask openapi export --format yaml --output openapi.yaml
    """
    document = current_app.swag.get_apispecs("openapi")  # type: ignore[attr-defined]  # set by flasgger
    write_or_check({output or Path(f"docs/openapi.{form}"): render_openapi(document, form)}, check=check)


def render_openapi(document: Mapping[str, Any], form: str) -> str:
    """An OpenAPI document as text.

    form: "json" or "yaml"
    """
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"
    if form == "json":
        return text
    plain = orjson.loads(text)  # without the references of YAML to values that occur twice
    return str(yaml.dump(plain, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True))


@errors.command("export")
@output_option("docs/errors.md")
@check_option
def export_errors(output: Path, check: bool) -> None:
    """Write the page about every error code.

    Example: flask errors export --check
    """
    write_or_check({output: errors_page()}, check=check)


@settings.command("export")
@check_option
def export_settings(check: bool) -> None:
    """Write docs/settings.md and .env.example.

    Example: flask settings export --check
    """
    fields = current_app.config["SETTINGS"].model_fields
    write_or_check(
        {Path("docs/settings.md"): settings_page(fields), Path(".env.example"): env_example(fields)}, check=check
    )


def write_or_check(documents: Mapping[Path, str], *, check: bool) -> None:
    """Write documents, or name the stale ones and exit with 3."""
    stale = {path: text for path, text in documents.items() if not path.exists() or path.read_text("utf-8") != text}
    for path, text in stale.items():
        if not check:
            path.write_text(text, encoding="utf-8")
        click.echo(f"{path} {'is stale: export it again' if check else 'written'}", err=check)
    if check and stale:
        raise click.exceptions.Exit(EXIT_PROBLEMS)


def errors_page() -> str:
    """Markdown page about every error code, by status."""
    lines = [
        "# Error codes",
        "",
        "Made from the code by `flask errors export`. Every error has the same shape:",
        "",
        "```json",
        '{"success": false, "error": {"code": "NOT_FOUND", "message": "...", "details": {}, "request_id": "req_...",',
        '  "docs": "https://.../docs/errors/NOT_FOUND"}}',
        "```",
        "",
        "Rely on `code`; `message` is for a person and may change. Quote `request_id` when you ask for help.",
    ]
    for status, kinds in groupby(docs_openapi.list_error_types(), key=lambda kind: kind.status):
        lines += ["", f"## {status} {HTTPStatus(status).phrase}"]
        for code, meanings in groupby(kinds, key=lambda kind: kind.code):
            lines += ["", f"### {code}"]
            for kind in meanings:
                lines += ["", f"> {kind.message}", "", error_codes.describe(kind)]
    return "\n".join(lines) + "\n"


def settings_page(fields: Mapping[str, FieldInfo]) -> str:
    """Markdown page with the table of settings.

    fields: of the settings class, by name
    """
    rows = [
        f"| `{name}` | {f'`{default}`' if (default := format_default(field)) else '-'} | {_cell(_expected(field))} "
        f"| {_cell(field.description or '')} |"
        for name, field in fields.items()
    ]
    table = ["| setting | default | value | use |", "|---|---|---|---|", *rows]
    return "\n".join([_SETTINGS_INTRODUCTION, "", *table]) + "\n"


def env_example(fields: Mapping[str, FieldInfo]) -> str:
    """Content of a `.env` with every setting commented out, at its default."""
    lines = ["# Copy to .env and uncomment what you change. The environment wins over this file."]
    for name, field in fields.items():
        lines += ["", f"# {field.description}", f"# {_expected(field)}", f"#{name}={format_default(field)}"]
    return "\n".join(lines) + "\n"


def format_default(field: FieldInfo) -> str:
    """A default as it is written in the environment; empty when there is none."""
    value = field.default
    if value is None or isinstance(value, SecretStr):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list | dict):
        return ",".join(value)
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _expected(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["expected"]) if isinstance(extra, dict) else ""
