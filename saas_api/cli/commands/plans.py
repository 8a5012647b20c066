"""Commands of plans: list, show, publish, migrate, archive."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from saas_api.admin import actions
from saas_api.billing import plan_migrations, plans, subscriptions
from saas_api.billing.plan_migrations import PlanMigration
from saas_api.billing.plans import PublishResult
from saas_api.billing.rating import plan_file
from saas_api.billing.rating.plan_file import PlanDifference
from saas_api.cli import action_commands, document_files, output, types
from saas_api.cli.action_commands import Description
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.core import clock, ids, money
from saas_api.core.db import engine, tenancy
from saas_api.core.document_reader import InvalidDocument

group = CommandGroup("plans", help="Plans and their prices.")


@group.command("list")
@types.json_option
def list_plans(*, as_json: bool) -> None:
    """List published plan versions with their base price and number of organizations.

    Example: flask plans list
    """
    with tenancy.system_session("plans.command") as session:
        versions = plans.list_versions(session, clock.now())
        prices = plans.get_versions(session, [version.version_id for version in versions])
    rows = [
        {
            "plan": version.code,
            "version": version.version_id,
            "base_amount": money.format_minor(
                prices[version.version_id].base_amount_minor, prices[version.version_id].currency
            ),
            "currency": prices[version.version_id].currency,
            "published_at": clock.format_rfc3339(version.published_at),
            "is_newest": version.is_newest,
            "is_archived": version.is_archived,
            "organizations": version.organizations,
        }
        for version in versions
    ]
    lines = []
    for row in rows:
        state = "retired" if row["is_archived"] else "newest" if row["is_newest"] else "older"
        amount = f"{row['base_amount']} {row['currency']}"
        lines.append(f"{row['version']:<20} {amount:>14} a month  {state:<8} organizations: {row['organizations']}")
    output.print_result({"plans": rows}, lines, as_json=as_json)


@group.command("show")
@click.argument("plan")
@click.option("--json", "as_json", is_flag=True, help="Print the document that `plans publish` takes.")
def show(plan: str, *, as_json: bool) -> None:
    """Show the newest version of a plan, or a named one such as pro@2.

    Example: flask plans show pro@1 --json > pro.json
    """
    currency = plans.find_currency(engine.session(), plan)
    version_id = plan if "@" in plan else plans.find_newest_version_id(engine.session(), plan, currency)
    if version_id is None or version_id not in plans.get_versions(engine.session(), [version_id]):
        raise CommandError(f"There is no published plan {plan}; flask plans list shows them.")
    document = plan_file.to_document(plans.get_plan_content(engine.session(), version_id))
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(f"{version_id}: {document['name']}, {document['base_amount']} {document['currency']} a month")
    for meter, price in document["prices"].items():
        click.echo(f"  {meter}: {_price_text(price)}")
    for feature, value in document["entitlements"].items():
        click.echo(f"  {feature}: {_price_text(value)}")


@group.command("publish")
@click.argument("file", type=document_files.FILE)
@click.option("--dry-run", "is_dry", is_flag=True, help="Show the difference without publishing.")
@types.json_option
def publish(file: Path, *, is_dry: bool, as_json: bool) -> None:
    """Publish a plan file as the plan's next version, after showing what changes. It is safe to run again.

    Organizations keep their version; `plans migrate` moves them.

    Example: flask plans publish pro.json --dry-run
    """
    try:
        document = document_files.read_document(file)
        result = plans.publish_plan(document, output.current_os_user(), is_dry=is_dry)
    except InvalidDocument as error:
        document_files.exit_with_problems(file, error, {"published": None, "changes": []}, as_json=as_json)
    _print_result(result, is_dry=is_dry, as_json=as_json)


@group.command("migrate")
@click.argument("source")
@click.argument("target")
@types.organization_option
@click.option(
    "--at",
    "when",
    type=click.Choice([subscriptions.EFFECTIVE_NOW, subscriptions.EFFECTIVE_PERIOD_END]),
    default=subscriptions.EFFECTIVE_PERIOD_END,
    show_default=True,
    help="When the organizations move.",
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Show the difference for each organization without moving any.")
@click.option("--yes", "is_sure", is_flag=True, help="Skip the confirmation.")
@types.json_option
def migrate(
    source: str,
    target: str,
    organization_id: UUID | None,
    when: str,
    *,
    is_dry: bool,
    is_sure: bool,
    as_json: bool,
) -> None:
    """Move organizations from one plan version to another, after showing what changes for each.

    Each organization gets an email and an event, and its audit log records the move. Organizations with a scheduled
    plan change are not moved. It is safe to run again.

    Example: flask plans migrate starter@1 starter@2 --dry-run
    """
    output.require_organization(organization_id)
    previews = plan_migrations.preview_migration(source, target, when, organization_id)
    lines = [_describe_migration(preview) for preview in previews]
    moved = 0
    if previews and not is_dry:
        click.echo("\n".join(lines), err=True)
        output.confirm_by_typing(target, f"Move these organizations to {target}?", is_sure=is_sure)
        actor = output.current_os_user()
        moved = sum(1 for _ in plan_migrations.migrate(source, target, when, actor, organization_id))
        lines = []
    rows = [_migration_to_json(preview) for preview in previews]
    summary = "This was a dry run; no organization was moved." if is_dry else f"Organizations moved: {moved}."
    output.print_result({"organizations": rows, "moved": moved, "dry_run": is_dry}, [*lines, summary], as_json=as_json)


def _migration_to_json(preview: PlanMigration) -> dict[str, Any]:
    return {
        "organization_id": ids.format_id("org", preview.organization_id),
        "organization_name": preview.organization_name,
        "effective_at": clock.format_rfc3339(preview.effective_at) if preview.effective_at else None,
        "before": money.format_minor(preview.before_minor, preview.currency),
        "after": money.format_minor(preview.after_minor, preview.currency),
        "difference": money.format_minor(preview.difference_minor, preview.currency),
        "currency": preview.currency,
        "spend_cap_conflict": preview.cap_conflict.message if preview.cap_conflict else None,
    }


def _describe_migration(preview: PlanMigration) -> str:
    row = _migration_to_json(preview)
    sign = "+" if preview.difference_minor > 0 else ""
    when = f"from {row['effective_at']}" if preview.effective_at else "stays: a change of its plan is scheduled"
    return (
        f"{row['organization_id']} {row['organization_name']}: {row['before']} -> {row['after']} {row['currency']} "
        f"({sign}{row['difference']}) for the current period; {when}"
        + (f". {row['spend_cap_conflict']}" if row["spend_cap_conflict"] else "")
    )


@action_commands.action_command(group, "archive", actions.get_action("plan", "retire"), is_reason_required=False)
def archive(result: tuple[bool, bool], plan: str) -> Description:
    """Stop offering a plan. Organizations on it keep their version.

    Example: flask plans archive starter --reason "replaced by team"
    """
    is_archived, is_changed = result
    state = "is offered no longer" if is_archived else "is offered again"
    line = f"{plan} {state}." if is_changed else f"{plan} {state}; it was so before."
    return Description({"plan": plan, "is_archived": is_archived, "is_changed": is_changed}, [line])


def _print_result(result: PublishResult, *, is_dry: bool, as_json: bool) -> None:
    if as_json:
        changes = [vars(difference) for difference in result.differences]
        data = {
            "plan": result.plan,
            "previous": result.previous,
            "dry_run": is_dry,
            "published": None if is_dry else result.version_id,
            "would_publish": result.version_id,
            "default_plan": result.default_version_id,
        }
        click.echo(json.dumps({**data, "changes": changes, "problems": []}))
        return
    for difference in result.differences:
        click.echo(_format_difference(difference))
    if not result.differences:
        click.echo(f"{result.previous} says the same; nothing to publish.")
    elif is_dry:
        click.echo(f"{result.version_id or result.plan} would be published; this was a dry run.")
    elif result.version_id:
        click.echo(
            f"{result.version_id} published. Organizations on older versions stay on them; "
            "flask plans migrate moves them."
        )
    else:
        click.echo(f"{result.plan} changed; its prices are as they were.")
    if result.default_version_id:
        verb = "would be published" if is_dry else "published"
        click.echo(f"{result.default_version_id} {verb} with it: {plans.DEFAULT_PLAN} had no prices in its currency.")
        click.echo("Organizations begin without a spend cap in a currency that DEFAULT_SPEND_CAP does not name.")


def _format_difference(difference: PlanDifference) -> str:
    before, after = json.dumps(difference.before), json.dumps(difference.after)
    if difference.before is None:
        return f"+ {difference.path}: {after}"
    if difference.after is None:
        return f"- {difference.path}: {before}"
    return f"~ {difference.path}: {before} -> {after}"


def _price_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_price_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "; ".join(_price_text(part) for part in value)
    return str(value)
