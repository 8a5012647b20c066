"""`flask partitions`: months of large tables, and archives of those that nothing needs any more."""

from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import Any

import click

from saas_api.cli import output, partition_archives, types
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.core import clock
from saas_api.core.db import partitions, tenancy
from saas_api.core.db.partitions import Partition

group = CommandGroup("partitions", help="Monthly partitions of large tables, and their archives.")


class MonthType(click.ParamType):
    """A month of the calendar."""

    name = "month"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        try:
            return value if isinstance(value, date) else datetime.strptime(value, "%Y-%m").date()  # noqa: DTZ007 - a month has no zone
        except ValueError:
            self.fail(f"{value!r} is no month; write 2026-01.", param, ctx)


@group.command("list")
@types.json_option
def list_partitions(*, as_json: bool) -> None:
    """List partitions and archived partitions by table and month.

    Example: flask partitions list
    """
    with tenancy.system_session("cli.partitions") as session:
        found = partitions.list_partitions(session)
    data = {"partitions": [_to_json(partition) for partition in found]}
    output.print_result(data, [_to_line(partition) for partition in found], as_json=as_json)


@group.command("prepare")
@types.json_option
def prepare(*, as_json: bool) -> None:
    """Create the missing partitions of this month and the next two. The scheduler does this every day.

    Rows stored before their partition existed are moved into it.

    Example: flask partitions prepare
    """
    with tenancy.system_session("cli.partitions") as session:
        created = partitions.prepare(session, clock.now().date())
    output.print_result({"created": created}, [f"Partitions made: {created}."], as_json=as_json)


@group.command("archive")
@click.option(
    "--before",
    type=MonthType(),
    required=True,
    metavar="MONTH",
    help="Archive the months before this one, such as 2026-01.",
)
@click.option(
    "--to",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Directory for the files; created if it is missing.",
)
@click.option("--table", help="Only this table.")
@click.option("--dry-run", is_flag=True, help="Show what would be archived, without changing anything.")
@types.json_option
def archive(*, before: date, directory: Path, table: str | None, dry_run: bool, as_json: bool) -> None:
    """Archive the partitions of past months: write Parquet files, verify them, and drop the partitions.

    Needs DATABASE_OWNER_URL. Months that are still needed are skipped, and the reason is shown: open invoices, late
    usage that is still accepted, audit events younger than 90 days, or messages younger than 31 days. Keep the
    files: invoices refer to their events.

    Example: flask partitions archive --before 2026-01 --to /var/archives/saas
    """
    archived, kept, lines = [], [], []
    for partition in _list_old(before, table):
        name, month = partition.name or "", partition.month or before
        with tenancy.system_session("cli.partitions") as session:
            obstacles = partition_archives.find_obstacles(session, partition.table_name, month)
        if obstacles:
            kept.append({"partition": name, "reasons": obstacles})
            lines.append(f"{name} is kept. {' '.join(obstacles)}")
        elif dry_run:
            archived.append({"partition": name})
            lines.append(f"{name} would be archived, about {partition.rows} rows.")
        else:
            manifest = partition_archives.archive_partition(partition.table_name, name, month, directory)
            archived.append({"partition": name, **asdict(manifest)})
            output.record_audit("platform.partition_archived", ("partition", name), {"sha256": manifest.sha256})
            lines.append(f"{name} is archived, {manifest.rows} rows in {manifest.bytes} bytes.")
    output.print_result(
        {"archived": archived, "kept": kept}, lines or ["There is nothing to archive."], as_json=as_json
    )


@group.command("restore")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@types.json_option
def restore(*, file: Path, as_json: bool) -> None:
    """Restore an archived partition from its Parquet FILE and the manifest beside it.

    Needs DATABASE_OWNER_URL. The file stays. Archive the partition again when you no longer need it.

    Example: flask partitions restore /var/archives/saas/usage_events-2025-12.parquet
    """
    manifest = partition_archives.restore_partition(file)
    output.record_audit("platform.partition_restored", ("partition", file.stem), {"sha256": manifest.sha256})
    output.print_result(asdict(manifest), [f"{file.stem} is restored, {manifest.rows} rows."], as_json=as_json)


def _list_old(before: date, table: str | None) -> list[Partition]:
    """Partitions of months before one, the oldest first.

    raises: CommandError when there is no partitioned table of this name
    """
    with tenancy.system_session("cli.partitions") as session:
        found = partitions.list_partitions(session)
    names = {partition.table_name for partition in found}
    if table is not None and table not in names:
        raise CommandError(f"{table} has no partitions; choose from {', '.join(sorted(names))}.")
    old = [partition for partition in found if partition.name and partition.month and partition.month < before]
    return [partition for partition in old if table in (None, partition.table_name)]


def _to_json(partition: Partition) -> dict[str, Any]:
    return {
        **asdict(partition),
        "month": partition.month and f"{partition.month:%Y-%m}",
        "archived_at": partition.archived_at and clock.format_rfc3339(partition.archived_at),
    }


def _to_line(partition: Partition) -> str:
    month = f"{partition.month:%Y-%m}" if partition.month else "other  "
    state = f"archived {partition.archived_at:%Y-%m-%d}" if partition.archived_at else f"{partition.bytes:>15,} bytes"
    return f"{partition.table_name:<16} {month} {partition.rows:>14,} rows  {state}"
