"""`flask backup` and `flask restore`."""

from dataclasses import asdict
from pathlib import Path

import click
from flask.cli import with_appcontext

from saas_api.cli import backups, output, types
from saas_api.cli.backups import Manifest
from saas_api.cli.errors import Command

_DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.command("backup", cls=Command)
@click.argument("directory", type=_DIRECTORY)
@types.json_option
@with_appcontext
def backup(*, directory: Path, as_json: bool) -> None:
    """Back up the database to a new DIRECTORY. The API stays available meanwhile.

    Needs DATABASE_OWNER_URL and pg_dump. Settings are not included; keep a copy of them elsewhere. API keys need the
    same API_KEY_PEPPER, and stored secrets the same SECRET_KEY.

    Example: flask backup /var/backups/saas/2026-11-30
    """
    manifest = backups.create_backup(directory)
    output.record_audit("platform.backed_up", ("backup", directory.name), {"sha256": manifest.sha256})
    output.print_result(asdict(manifest), [f"{directory} is written: {_summary(manifest)}."], as_json=as_json)


@click.command("restore", cls=Command)
@click.argument("directory", type=_DIRECTORY)
@types.json_option
@with_appcontext
def restore(*, directory: Path, as_json: bool) -> None:
    """Restore the backup in DIRECTORY into the empty database of DATABASE_OWNER_URL. It may be of an older release.

    First create the database with the SQL of flask db roles. Afterwards start web, workers and scheduler with an
    empty Redis. Requests accepted after the backup are lost.

    Example: flask restore /var/backups/saas/2026-11-30
    """
    manifest = backups.restore_backup(directory)
    output.record_audit("platform.restored", ("backup", directory.name), {"sha256": manifest.sha256})
    output.print_result(asdict(manifest), [f"{directory} is restored: {_summary(manifest)}."], as_json=as_json)


def _summary(manifest: Manifest) -> str:
    return f"{sum(manifest.rows.values())} rows as of {manifest.created_at}, {manifest.bytes} bytes"
