"""Commands of meters: list, show, publish, archive."""

import json
from pathlib import Path
from typing import Any

import click

from saas_api.admin import actions
from saas_api.cli import action_commands, document_files, output, types
from saas_api.cli.action_commands import Description
from saas_api.cli.errors import CommandGroup
from saas_api.core.db import engine
from saas_api.core.document_reader import InvalidDocument
from saas_api.usage import meter_file, meters
from saas_api.usage.meters import PublishedMeter

group = CommandGroup("meters", help="Meters: what is counted and billed.")


@group.command("list")
@types.json_option
def list_meters(*, as_json: bool) -> None:
    """List meters with their unit and how they count.

    Example: flask meters list
    """
    rows: list[dict[str, Any]] = [
        {**meter_file.to_document(meters.meter_content(meter)), "is_archived": meter.archived_at is not None}
        for meter in meters.list_meters(engine.session())
    ]
    lines = [
        f"{row['code']:<24} {row['name']:<24} {row['aggregation']:<7} {row['unit']}"
        + (", archived" if row["is_archived"] else "")
        for row in rows
    ]
    output.print_result({"meters": rows}, lines, as_json=as_json)


@group.command("show")
@click.argument("code")
@click.option("--json", "as_json", is_flag=True, help="Print the document that `meters publish` takes.")
def show(code: str, *, as_json: bool) -> None:
    """Show a meter.

    Example: flask meters show sms --json > sms.json
    """
    meter = meters.get_meter(engine.session(), code)
    document = meter_file.to_document(meters.meter_content(meter))
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    for name, value in document.items():
        click.echo(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
    if meter.archived_at:
        click.echo("It is archived: it takes no new usage.")


@group.command("publish")
@click.argument("file", type=document_files.FILE)
@types.json_option
def publish(file: Path, *, as_json: bool) -> None:
    """Create or update a meter from a file. It is safe to run again.

    A meter with usage keeps its unit and how it counts. Its name, description and dimensions can change.

    Example: flask meters publish lookups.json
    """
    try:
        result = meters.publish_meter(document_files.read_document(file), output.current_os_user())
    except InvalidDocument as error:
        document_files.exit_with_problems(file, error, {"meter": None, "changes": []}, as_json=as_json)
    data = {"meter": result.meter.code, "is_new": result.is_new, "changes": result.changes, "problems": []}
    output.print_result(data, _describe(result), as_json=as_json)


def _describe(result: PublishedMeter) -> list[str]:
    code = result.meter.code
    if result.is_new:
        return [f"{code} published. It costs something on the plans that price it; flask plans publish does that."]
    if not result.changes:
        return [f"{code} says the same; nothing to publish."]
    lines = [f"{code} changed: {', '.join(result.changes)}."]
    if "dimensions" in result.changes:
        lines.append("Hours that are rolled up keep their dimensions; flask usage rebuild groups them by the new ones.")
    return lines


@action_commands.action_command(group, "archive", actions.get_action("meter", "archive"), is_reason_required=False)
def archive(result: tuple[bool, bool], code: str) -> Description:
    """Stop a meter from taking new usage. Recorded usage stays billed and visible.

    Example: flask meters archive lookups --reason "replaced by searches"
    """
    is_archived, is_changed = result
    state = "is archived" if is_archived else "takes usage"
    line = f"{code} {state}." if is_changed else f"{code} {state}; it was so before."
    return Description({"meter": code, "is_archived": is_archived, "is_changed": is_changed}, [line])
