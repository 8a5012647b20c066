"""The `flask` command: one module of `cli.commands` for each noun.

The modules are imported by `init_app` only: the web imports this package without loading any command.
"""
# ruff: noqa: PLC0415 - the web loads no command

from collections.abc import Iterator

import click
from flask import Flask

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="cli",
    system_purposes=(
        "audit.command",
        "cli.keys",
        "cli.note",
        "cli.users",
        "cli.zones",
        "operator.command",
        "payments.read",
        "plans.command",
        "services.command",
        "webhooks.command",
    ),
)


def init_app(app: Flask) -> None:
    """Add the commands of this package and of Flask-Migrate to an application."""
    from flask_migrate import Migrate
    from flask_migrate.cli import db as migration_commands

    from saas_api.cli.commands import database
    from saas_api.core.db.engine import db

    Migrate(app, db, directory="migrations")
    migration_commands.add_command(database.print_roles)
    for command in (*_groups(), *_commands()):
        app.cli.add_command(command)


def _groups() -> Iterator[click.Group]:
    from saas_api.cli.commands import (
        audit,
        billing,
        demo,
        documents,
        dunning,
        engines,
        keys,
        mail,
        meters,
        operators,
        organizations,
        payments,
        plans,
        scheduler,
        services,
        up,
        usage,
        users,
        webhooks,
    )

    up.group.add_command(engines.group)
    modules = (audit, billing, demo, documents, dunning, keys, mail, meters, operators)
    yield from (module.group for module in modules)
    yield from (
        module.group for module in (organizations, payments, plans, scheduler, services, up, usage, users, webhooks)
    )
    yield from (documents.errors, documents.openapi, documents.settings)


def _commands() -> Iterator[click.Command]:
    from saas_api.cli.commands import doctor, scheduler, worker

    yield from (doctor.doctor, scheduler.scheduler, worker.worker)
