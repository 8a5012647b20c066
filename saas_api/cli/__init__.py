"""The `flask` command: one module of `cli.commands` for each noun.

A module is imported when its command is needed: each takes time and memory of a process that runs one of them.
"""

from importlib import import_module

from flask import Flask

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="cli",
    system_purposes=(
        "audit.command",
        "cli.backups",
        "cli.cells",
        "cli.keys",
        "cli.note",
        "cli.partitions",
        "cli.users",
        "cli.zones",
        "payments.read",
        "webhooks.command",
    ),
    home_purposes=("operator.command", "plans.command", "services.command"),
)

COMMANDS = {
    "audit": "audit.group",
    "backup": "backups.backup",
    "billing": "billing.group",
    "cells": "cells.group",
    "cli": "documents.group",
    "demo": "demo.group",
    "dev": "preparation.group",
    "doctor": "doctor.doctor",
    "dunning": "dunning.group",
    "errors": "documents.errors",
    "keys": "keys.group",
    "mail": "mail.group",
    "meters": "meters.group",
    "openapi": "documents.openapi",
    "operator": "operators.group",
    "organizations": "organizations.group",
    "partitions": "partitions.group",
    "payments": "payments.group",
    "plans": "plans.group",
    "restore": "backups.restore",
    "schedule": "scheduler.group",
    "scheduler": "scheduler.scheduler",
    "secrets": "secrets.group",
    "services": "services.group",
    "settings": "documents.settings",
    "usage": "usage.group",
    "users": "users.group",
    "webhooks": "webhooks.group",
    "worker": "worker.worker",
}
"""Module below `commands`, and its command or group, by the name of the command."""
_SELF_CONTAINED = {*COMMANDS} - {"cli", "dev", "doctor", "errors", "openapi", "restore"}
"""They run without other commands, and without Flask-Migrate; generated pages list what every module declares."""
WITHOUT_VIEWS = {*COMMANDS, "db"} - {"cli", "demo", "dev", "errors", "openapi", "services", "settings"}
"""They do the work of the domains, as workers do; views and pages would take half a second to import."""


def init_app(app: Flask, command: str = "") -> None:
    """Add the commands of this package and of Flask-Migrate to an application.

    command: the only one that will run, and is added; any other text adds all
    """
    if command == "db":
        import_module(f"{__name__}.commands.database").init_app(app)
        return
    is_alone = command in _SELF_CONTAINED
    for name in (command,) if is_alone else COMMANDS:
        module, _, attribute = COMMANDS[name].partition(".")
        app.cli.add_command(getattr(import_module(f"{__name__}.commands.{module}"), attribute))
    if not is_alone:
        import_module(f"{__name__}.commands.database").init_app(app)
