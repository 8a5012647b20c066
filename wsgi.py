"""Entry point of gunicorn and of the `flask` command: reads the settings and creates the application."""

import json
import sys
from pathlib import Path

import click
from flask import Flask

is_command = click.get_current_context(silent=True) is not None


def help_app() -> Flask:
    """An application that only lists its commands, for `flask --help`, without importing the product.

    Commands of Flask and of libraries still run (`flask shell`), and are not listed.
    """
    for command in getattr(click.get_current_context().find_root().command, "commands", {}).values():
        command.hidden = True
    application = Flask("saas_api")
    commands = Path(__file__).with_name("saas_api") / "cli" / "commands.json"
    for name, text in json.loads(commands.read_text(encoding="utf-8")).items():
        application.cli.add_command(click.Command(name, help=text))
    return application


def product_app() -> Flask:
    """The product, with its commands when the `flask` command loads it."""
    import config  # noqa: PLC0415 - not for `flask --help`
    from saas_api import cli  # noqa: PLC0415 - the same
    from saas_api.app import create_app  # noqa: PLC0415 - the same
    from saas_api.cli import errors  # noqa: PLC0415 - the same

    try:
        process = sys.argv[1] if is_command and len(sys.argv) > 1 else "web"
        application = create_app({**config.load(), "PROCESS": process})
    except config.ConfigurationError as error:
        sys.exit(f"The settings cannot be used:\n{error}")
    if is_command:
        application.config["SETTINGS"] = config.Settings  # `flask settings export` documents them
        cli.init_app(application)
        sys.excepthook = errors.excepthook
    return application


app = help_app() if is_command and sys.argv[1:] in ([], ["--help"]) else product_app()
