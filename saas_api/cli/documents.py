"""`flask openapi|errors|settings export`: writes the documents that are made from code.

With `--check` nothing is written; exit code 3 says that the committed copy is stale.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from http import HTTPStatus
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import orjson
from flask import current_app
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from saas_api.cli.boot import PROBLEMS_FOUND, Commands
from saas_api.docs import service as docs

BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"

openapi = Commands("openapi", help="The OpenAPI document.")
errors = Commands("errors", help="The page about error codes.")
settings = Commands("settings", help="The settings in README.md and .env.example.")
groups = (openapi, errors, settings)

check_option = click.option("--check", is_flag=True, help="Write nothing; exit 3 when the file is stale.")


def output_option(default: str) -> Callable[..., Any]:
    """Where a document is written."""
    return click.option(
        "--output", type=click.Path(path_type=Path), default=default, show_default=True, help="Where to."
    )


@openapi.command("export")
@output_option("docs/openapi.json")
@check_option
def export_openapi(output: Path, check: bool) -> None:
    """Write the document that /api/v1/openapi.json serves.

    Example: flask openapi export --check
    """
    document = current_app.swag.get_apispecs("openapi")  # type: ignore[attr-defined]  # flasgger puts itself there
    settle({output: orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"}, check=check)


@errors.command("export")
@output_option("docs/errors.md")
@check_option
def export_errors(output: Path, check: bool) -> None:
    """Write the page about every error code.

    Example: flask errors export --check
    """
    settle({output: errors_page()}, check=check)


@settings.command("export")
@check_option
def export_settings(check: bool) -> None:
    """Write the table in README.md, and .env.example.

    Example: flask settings export --check
    """
    fields = current_app.config["SETTINGS"].model_fields
    readme, example = Path("README.md"), Path(".env.example")
    settle({readme: with_table(readme.read_text("utf-8"), fields), example: env_example(fields)}, check=check)


def settle(documents: Mapping[Path, str], *, check: bool) -> None:
    """Write documents, or say which of them are stale and end with 3."""
    stale = {path: text for path, text in documents.items() if not path.exists() or path.read_text("utf-8") != text}
    for path, text in stale.items():
        if not check:
            path.write_text(text, encoding="utf-8")
        click.echo(f"{path} {'is stale: export it again' if check else 'written'}", err=check)
    if check and stale:
        raise click.exceptions.Exit(PROBLEMS_FOUND)


def errors_page() -> str:
    """Markdown about every error code, by status."""
    lines = [
        "# Error codes",
        "",
        "Made from the code by `flask errors export`. Every error has the same shape:",
        "",
        "```json",
        '{"success": false, "error": {"code": "NOT_FOUND", "message": "...", "details": {}, "request_id": "req_..."}}',
        "```",
        "",
        "Rely on `code`; `message` is for a person and may change. Quote `request_id` when you ask for help.",
    ]
    for status, kinds in groupby(docs.every_error(), key=lambda kind: kind.status):
        lines += ["", f"## {status} {HTTPStatus(status).phrase}"]
        for code, meanings in groupby(kinds, key=lambda kind: kind.code):
            lines += ["", f"### {code}"]
            for kind in meanings:
                lines += ["", f"> {kind.message}", "", (kind.__doc__ or "").strip().partition("\n")[0]]
    return "\n".join(lines) + "\n"


def settings_table(fields: Mapping[str, FieldInfo]) -> str:
    """Markdown table of settings.

    fields: of the settings class, by name
    """
    rows = [
        f"| `{name}` | {f'`{shown}`' if (shown := default_text(field)) else '-'} | {_expected(field)} "
        f"| {field.description} |"
        for name, field in fields.items()
    ]
    return "\n".join(["| setting | default | value | use |", "|---|---|---|---|", *rows])


def with_table(readme: str, fields: Mapping[str, FieldInfo]) -> str:
    """The README with the present table between its marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{settings_table(fields)}\n{END}{after}"


def env_example(fields: Mapping[str, FieldInfo]) -> str:
    """A `.env` with every setting at its default, all of them commented out."""
    lines = ["# Copy to .env and uncomment what you change. The environment wins over this file."]
    for name, field in fields.items():
        lines += ["", f"# {field.description}", f"# {_expected(field)}", f"#{name}={default_text(field)}"]
    return "\n".join(lines) + "\n"


def default_text(field: FieldInfo) -> str:
    """A default as one would write it into the environment; empty when there is none."""
    value = field.default
    if value is None or isinstance(value, SecretStr):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list):
        return ",".join(value)
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def _expected(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["expected"]) if isinstance(extra, dict) else ""
