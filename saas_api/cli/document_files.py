"""Files with a JSON document that commands publish."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
from click.exceptions import Exit

from saas_api.cli.errors import EXIT_PROBLEMS, CommandError
from saas_api.core import document_reader
from saas_api.core.document_reader import MAX_FILE_BYTES, InvalidDocument

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def read_document(file: Path) -> Any:
    """The parsed file.

    raises: CommandError, InvalidDocument
    """
    if file.stat().st_size > MAX_FILE_BYTES:
        raise CommandError(f"{file} is larger than {MAX_FILE_BYTES} bytes.")
    try:
        return document_reader.parse_json(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise CommandError(f"{file} is not text in UTF-8; save it as that.") from None


def exit_with_problems(file: Path, error: InvalidDocument, data: Mapping[str, Any], *, as_json: bool) -> NoReturn:
    """Print every problem of a document, and end the command.

    data: what the JSON object has beside the problems
    """
    if as_json:
        problems = [{"path": path, "reason": reason} for path, reason in error.problems]
        click.echo(json.dumps({**data, "problems": problems}))
    for path, reason in error.problems:
        click.echo(f"{file}: {path or 'the file'} {reason}", err=True)
    raise Exit(EXIT_PROBLEMS)
