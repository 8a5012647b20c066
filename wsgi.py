"""Entry point of gunicorn and of the `flask` command: reads the settings and creates the application."""

import json
import os
import sys
from pathlib import Path

import click
from flask import Flask
from flask.cli import cli as flask_command

is_completion = "_FLASK_COMPLETE" in os.environ  # a shell asks for the words that may come next
is_command = is_completion or click.get_current_context(silent=True) is not None


def command_summaries() -> dict[str, str]:
    """The product's commands and groups with their descriptions."""
    commands = Path(__file__).with_name("saas_api") / "cli" / "commands.json"
    summaries: dict[str, str] = json.loads(commands.read_text(encoding="utf-8"))
    return summaries


def is_listing() -> bool:
    """Whether the `flask` command only lists the commands: `flask --help`, or the completion of the first word."""
    if is_completion:
        return not {*os.environ.get("COMP_WORDS", "").split()} & {*command_summaries()}
    return is_command and sys.argv[1:] in ([], ["--help"])


def help_app() -> Flask:
    """An application that only lists its commands, without importing the product.

    Commands of Flask and of libraries still run (`flask shell`), and are not listed.
    """
    for command in flask_command.commands.values():
        command.hidden = True
    application = Flask("saas_api")
    for name, text in command_summaries().items():
        application.cli.add_command(click.Command(name, help=text))
    return application


def supervisor_app() -> Flask:
    """An application with the command `flask dev up` alone: processes of their own are the product."""
    import config  # noqa: PLC0415 - not for `flask --help`
    from saas_api.cli import errors  # noqa: PLC0415 - the same
    from saas_api.cli.commands import up  # noqa: PLC0415 - the same

    application = Flask("saas_api")
    try:
        application.config.from_mapping(config.load())
    except config.ConfigurationError as error:
        sys.exit(f"The settings cannot be used:\n{error}")
    application.cli.add_command(up.group)
    sys.excepthook = errors.excepthook
    return application


def product_app() -> Flask:
    """The product, with its commands when the `flask` command loads it."""
    import config  # noqa: PLC0415 - not for `flask --help`
    from saas_api import cli  # noqa: PLC0415 - the same
    from saas_api.app import create_app  # noqa: PLC0415 - the same
    from saas_api.cli import errors  # noqa: PLC0415 - the same
    from saas_api.core import processes  # noqa: PLC0415 - the same

    processes.share_heap()
    try:
        process = sys.argv[1] if is_command and len(sys.argv) > 1 else "web"
        serves_nothing = process in ("worker", "scheduler") or "--help" in sys.argv
        application = create_app({**config.load(), "PROCESS": process}, with_routes=not serves_nothing)
    except config.ConfigurationError as error:
        sys.exit(f"The settings cannot be used:\n{error}")
    if is_command:
        application.config["SETTINGS"] = config.Settings  # `flask settings export` documents them
        cli.init_app(application, process)
        sys.excepthook = errors.excepthook
    return application


if is_listing():
    app = help_app()
elif is_command and sys.argv[1:3] == ["dev", "up"]:
    app = supervisor_app()
else:
    app = product_app()
