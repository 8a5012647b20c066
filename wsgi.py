"""Entry point of gunicorn and of the `flask` command: reads the settings and creates the application."""

import os
import sys

import click
from flask import Flask
from flask.cli import cli as flask_command

from saas_api.cli import help_text

is_completion = "_FLASK_COMPLETE" in os.environ  # a shell asks for the words that may come next
is_command = is_completion or click.get_current_context(silent=True) is not None


def is_listing() -> bool:
    """Whether the `flask` command only shows help, or a shell asks what may be typed."""
    words = sys.argv[1:]
    is_help = is_command and (words == [] or words[-1] == "--help")
    return is_completion or (is_help and help_text.is_command(words[:-1], help_text.read_commands()))


def help_app() -> Flask:
    """An application that shows and completes its commands, without importing them.

    Commands of Flask and of libraries still run (`flask shell`), and are not listed.
    """
    for command in flask_command.commands.values():
        command.hidden = True
    application = Flask("saas_api")
    for name, stored in help_text.read_commands().items():
        flask_command.commands.pop(name, None)  # of Flask-Migrate, which lacks ours
        application.cli.add_command(help_text.build(name, stored))
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
        with_routes = not (is_command and process in cli.WITHOUT_VIEWS)
        application = create_app({**config.load(), "PROCESS": process}, with_routes=with_routes)
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
