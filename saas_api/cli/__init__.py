"""The `flask` command: registers the groups and commands that the modules of this package define.

They are imported when an application asks for them: the web imports this package for its settings alone.
"""
# ruff: noqa: PLC0415 - for that reason

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
    from flask_migrate import Migrate

    from saas_api.core.db.engine import db

    Migrate(app, db, directory="migrations")
    for command in _commands():
        app.cli.add_command(command)


def _commands() -> tuple[click.Command, ...]:
    from saas_api.cli.commands import (
        billing,
        demo,
        doctor,
        documents,
        dunning,
        engines,
        keys,
        mail,
        operators,
        payments,
        plans,
        scheduler,
        up,
        usage,
        webhooks,
        worker,
    )

    _ = engines  # it extends the group of another module
    return (
        billing.group,
        demo.group,
        up.group,
        doctor.doctor,
        documents.errors,
        documents.openapi,
        documents.settings,
        dunning.group,
        keys.group,
        mail.group,
        documents.group,
        operators.group,
        payments.group,
        plans.group,
        scheduler.group,
        scheduler.scheduler,
        usage.group,
        webhooks.group,
        worker.worker,
    )
