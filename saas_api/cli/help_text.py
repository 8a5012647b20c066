"""Help and completion of commands without importing them: both are stored in `commands.json`.

`flask cli export` writes it from the commands. This module imports click and nothing else.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

COMMANDS_FILE = Path(__file__).with_name("commands.json")
_EXAMPLE = "Example: "

Stored = Mapping[str, Any]
"""A command: `help`, `is_hidden`, `usage` (words), `options` (name and text of each row), `completions` (values by
option, null for any), `flags`, and for a group its `commands` by name."""


class CommandWithExamples(click.Command):
    """A command whose help ends with examples, which are not wrapped."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        text, examples = self.text_and_examples()
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text)
        if examples:
            with formatter.section("Example" if len(examples) == 1 else "Examples"):
                formatter.write("".join(f"{'':>{formatter.current_indent}}{line}\n" for line in examples))

    def text_and_examples(self) -> tuple[str, list[str]]:
        """The help text, and the example lines that follow "Example:" in it."""
        text, _, examples = inspect.cleandoc(self.help or "").partition(_EXAMPLE)
        return text.strip(), [line.strip() for line in examples.splitlines() if line.strip()]


def describe(command: click.Command) -> dict[str, Any]:
    """A command with all below it, as JSON stores it."""
    context = click.Context(command)
    shown = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
    stored: dict[str, Any] = {
        "help": inspect.cleandoc(command.help or ""),
        "is_hidden": command.hidden,
        "usage": command.collect_usage_pieces(context),
        "options": [record for option in shown if (record := option.get_help_record(context))],
        "completions": {
            name: list(option.type.choices) if isinstance(option.type, click.Choice) else None
            for option in shown
            for name in (*option.opts, *option.secondary_opts)
        },
        "flags": [name for option in shown if option.is_flag for name in option.opts],
    }
    if isinstance(command, click.Group):
        stored["commands"] = {name: describe(inner) for name, inner in sorted(command.commands.items())}
    return stored


class _StoredHelp(click.Command):
    """Usage and options as they were stored."""

    stored: Stored

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.stored["usage"])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(names, text) for names, text in self.stored["options"]]
        option = self.get_help_option(ctx)
        record = option.get_help_record(ctx) if option else None
        with formatter.section("Options"):
            formatter.write_dl([*rows, *([record] if record else [])])


class _StoredCommand(_StoredHelp, CommandWithExamples):
    pass


class _StoredGroup(_StoredHelp, click.Group):
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def read_commands() -> dict[str, Stored]:
    """The stored commands by name."""
    commands: dict[str, Stored] = json.loads(COMMANDS_FILE.read_text(encoding="utf-8"))
    return commands


def build(name: str, stored: Stored) -> click.Command:
    """A command that shows its help and completes its options, and does nothing."""
    params: list[click.Parameter] = [
        click.Option(
            [option],
            is_flag=option in stored["flags"],
            type=click.Choice(choices) if choices else None,
        )
        for option, choices in stored["completions"].items()
    ]
    command: _StoredCommand | _StoredGroup
    if "commands" in stored:
        inner = {inner_name: build(inner_name, below) for inner_name, below in stored["commands"].items()}
        command = _StoredGroup(name, inner, help=stored["help"], params=params)
    else:
        command = _StoredCommand(name, help=stored["help"], params=params)
    command.stored, command.hidden = stored, stored["is_hidden"]
    return command


def is_command(words: list[str], commands: Mapping[str, Stored]) -> bool:
    """Whether words name a stored command; none name the whole list."""
    below: Mapping[str, Stored] = commands
    for word in words:
        if word not in below:
            return False
        below = below[word].get("commands", {})
    return True
