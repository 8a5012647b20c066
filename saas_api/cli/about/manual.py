"""`flask cli export`: writes the page about the command line, and the list that `flask --help` shows at once."""

import inspect
from collections.abc import Iterator
from pathlib import Path

import click
import orjson
from flask import current_app

from saas_api.cli.boot import Commands, Single
from saas_api.cli.documents import check_option, output_option, settle
from saas_api.core.settings import ROOT

NOUNS = ROOT / "saas_api" / "cli" / "nouns.json"
MIGRATIONS = "db"
"""Flask-Migrate's commands, which it describes itself."""
_BEGINNING = """# Command line

Made from the commands by `flask cli export`. They are run in the checkout, as `.venv/bin/flask NOUN VERB`; each has
`--help`.

- `--json` prints one object on stdout and nothing else; errors are one line on stderr that says what to do.
- Exit codes: 0 done, 1 failed, 2 used wrongly, 3 problems found (by a check).
- An id is read as the API writes it (`org_...`) or as a UUID; a time as in RFC 3339, without an offset as UTC.
- What changes something leaves a row in the log of acts, in the name of the operating system's user.
- A repeat is harmless.

The tables are brought up with `flask db upgrade` (`flask db current` shows where they stand, `flask db check` whether
the code expects more, `flask db downgrade` goes back)."""

group = Commands("cli", help="The page about the command line.")


@group.command("export")
@output_option("docs/cli.md")
@check_option
def export_manual(output: Path, check: bool) -> None:
    """Write the page about every command, and the list that flask --help shows.

    Example: flask cli export --check
    """
    settle({output: manual(current_app.cli), NOUNS: nouns(current_app.cli)}, check=check)


def nouns(root: click.Group) -> str:
    """What `flask --help` lists, as JSON: the first sentence about each command by its name."""
    listed = {name: _first_line(command) for name, command in sorted(root.commands.items())}
    return orjson.dumps(listed, option=orjson.OPT_INDENT_2).decode() + "\n"


def manual(root: click.Group) -> str:
    """The page: Markdown."""
    lines = [_BEGINNING]
    for name, command in sorted(root.commands.items()):
        if name == MIGRATIONS:
            continue
        lines += ["", f"## {name}"]
        if isinstance(command, click.Group):
            lines += ["", _first_line(command)]
        for path, leaf in _leaves(f"flask {name}", command):
            lines += ["", *_described(path, leaf)]
    return "\n".join(lines) + "\n"


def _leaves(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, inner in command.commands.items():
        if not inner.hidden:
            yield from _leaves(f"{path} {name}", inner)


def _described(path: str, command: click.Command) -> list[str]:
    context = click.Context(command, info_name=path)
    text, examples = command.text_and_examples() if isinstance(command, Single) else (command.help or "", [])
    lines = [f"### {path}", "", f"`{' '.join([path, *command.collect_usage_pieces(context)])}`", "", text]
    if examples:
        lines += ["", "```sh", *examples, "```"]
    records = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    rows = [f"| `{_cell(names)}` | {_cell(what)} |" for names, what in records if what and names != "--help"]
    return [*lines, *(["", "| option | meaning |", "|---|---|", *rows] if rows else [])]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _first_line(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").partition("\n\n")[0]
