"""The application gunicorn and the flask command load: settings in, application out."""

import json
import sys
from pathlib import Path

import click
from flask import Flask

is_command = click.get_current_context(silent=True) is not None


def overview() -> Flask:
    """An application that only lists its commands, for `flask --help`: nothing of the product is imported for it."""
    listed = Flask("saas_api")
    nouns = Path(__file__).with_name("saas_api") / "cli" / "commands.json"
    for name, text in json.loads(nouns.read_text(encoding="utf-8")).items():
        listed.cli.add_command(click.Command(name, help=text))
    return listed


def product() -> Flask:
    """The product; the web never loads the command line."""
    from config import (
        ConfigurationError,  # noqa: PLC0415 - not for `flask --help`
        Settings,  # noqa: PLC0415 - not for `flask --help`
        load,  # noqa: PLC0415 - not for `flask --help`
    )
    from saas_api import cli  # noqa: PLC0415 - the same
    from saas_api.app import create_app  # noqa: PLC0415 - the same
    from saas_api.cli import errors  # noqa: PLC0415 - the same

    try:
        made = create_app(load())
    except ConfigurationError as error:
        sys.exit(f"The settings cannot be used:\n{error}")
    if is_command:
        made.config["SETTINGS"] = Settings  # `flask settings export` writes their table
        cli.init_app(made)
        sys.excepthook = errors.excepthook
    return made


app = overview() if is_command and sys.argv[1:] in ([], ["--help"]) else product()
