"""The command line: every module of this package, at any depth, offers `flask` the commands it defines."""

import pkgutil
from importlib import import_module

import click
from flask import Flask

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="cli",
    system_purposes=(
        "billing.corrections",
        "cli.keys",
        "cli.note",
        "cli.zones",
        "operator.command",
        "payments.read",
        "plans.command",
        "webhooks.command",
    ),
)


def init_app(app: Flask) -> None:
    """Give an application's `flask` command the commands of this package, and Flask-Migrate's."""
    from flask_migrate import Migrate  # noqa: PLC0415 - alembic is large, and this package is imported for less

    from saas_api.core.db import db  # noqa: PLC0415 - the same

    Migrate(app, db, directory="migrations")
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        found = [thing for thing in vars(import_module(module.name)).values() if isinstance(thing, click.Command)]
        held = [command for group in found if isinstance(group, click.Group) for command in group.commands.values()]
        for command in found:
            if command not in held:
                app.cli.add_command(command)
