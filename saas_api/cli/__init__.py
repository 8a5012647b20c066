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

    from saas_api.core.db import db

    Migrate(app, db, directory="migrations")
    for command in _commands():
        app.cli.add_command(command)


def _commands() -> tuple[click.Command, ...]:
    from saas_api.cli import documents, scheduler, worker
    from saas_api.cli.about import doctor, manual
    from saas_api.cli.demo import demo
    from saas_api.cli.dev.commands import engines, up
    from saas_api.cli.money import billing, corrections, dunning, invariants, payments, plans
    from saas_api.cli.rooms import keys, mail, operator, usage, webhooks

    _ = engines, corrections, invariants  # they extend the groups of others
    return (
        billing.group,
        demo,
        up.group,
        doctor.doctor,
        documents.errors,
        documents.openapi,
        documents.settings,
        dunning.group,
        keys.group,
        mail.group,
        manual.group,
        operator.group,
        payments.group,
        plans.group,
        scheduler.group,
        scheduler.scheduler,
        usage.group,
        webhooks.group,
        worker.worker,
    )
