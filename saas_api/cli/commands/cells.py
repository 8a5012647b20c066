"""`flask cells`: the PostgreSQL clusters over which organizations are spread, and moving an organization."""

from typing import Any
from uuid import UUID

import click
import psycopg2
import sqlalchemy as sa
from flask.cli import with_appcontext
from sqlalchemy.exc import DBAPIError, OperationalError

from saas_api.accounts.organizations import OrganizationNotFound
from saas_api.cli import errors, output
from saas_api.cli.errors import CommandError, CommandGroup
from saas_api.cli.types import PublicId, json_option
from saas_api.core import ids
from saas_api.core.db import cells, tenancy
from saas_api.ops import cell_moves
from saas_api.ops.cell_moves import CannotMove, CopyDiffers, MoveState

group = CommandGroup("cells", help="Cells: PostgreSQL clusters that hold organizations.")
_COUNT = sa.text("SELECT count(*) FROM organizations")
_organization = click.argument("organization_id", metavar="ORGANIZATION", type=PublicId("org"))


@group.command("list")
@json_option
@with_appcontext
def list_cells(*, as_json: bool) -> None:
    """List cells with their number of organizations; a cell that does not respond shows none.

    Example: flask cells list
    """
    found: list[dict[str, Any]] = []
    for cell in cells.names():
        with cells.use(cell):
            found.append({"cell": cells.display_name(cell), "organizations": _count_organizations()})
    lines = [
        f"{row['cell']:12} {'does not respond' if row['organizations'] is None else row['organizations']}"
        for row in found
    ]
    output.print_result({"cells": found}, lines, as_json=as_json)


@group.command("status")
@_organization
@json_option
@with_appcontext
def show_status(*, organization_id: UUID, as_json: bool) -> None:
    """Show which cell holds an organization, and whether it is being moved.

    Example: flask cells status org_...
    """
    public_id = ids.format_id("org", organization_id)
    state = _find_state(organization_id)
    line = f"{public_id} is in {state.cell}" + (f" and being moved to {state.moving_to}." if state.moving_to else ".")
    data = {"id": public_id, "cell": state.cell, "moving_to": state.moving_to}
    output.print_result(data, [line], as_json=as_json)


@group.command("move")
@_organization
@click.argument("cell")
@json_option
@with_appcontext
def move(*, organization_id: UUID, cell: str, as_json: bool) -> None:
    """Move an organization to a CELL of CELLS, or home. Run it again if it was interrupted.

    Until the move ends, its requests get 503 ORGANIZATION_MOVING. Other organizations are not affected.

    Example: flask cells move org_... eu
    """
    _find_state(organization_id)
    try:
        counts = cell_moves.move_organization(organization_id, cell)
    except (CannotMove, CopyDiffers) as error:
        raise CommandError(f"The organization stays where it is: {error}.") from None
    except (DBAPIError, psycopg2.Error) as error:  # rows are copied by the driver itself
        raise CommandError(
            f"PostgreSQL: {errors.database_reason(error)}. The move may not be finished: run the same command again. "
            "As long as flask cells status shows that the organization is being moved, its requests are refused."
        ) from None
    public_id = ids.format_id("org", organization_id)
    data = {"id": public_id, "cell": cell, "rows": sum(counts.values())}
    output.print_result(data, [f"{public_id} is in {cell}; {data['rows']} rows were moved."], as_json=as_json)


@group.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("cell")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
@with_appcontext
def run_in_cell(context: click.Context, *, cell: str, command: tuple[str, ...]) -> None:
    """Run a COMMAND for the organizations of one CELL.

    Example: flask cells run eu billing invariants
    """
    names = {cells.display_name(name): name for name in cells.names()}
    if cell not in names:
        raise CommandError(f"CELLS names no cell {cell}.")
    root = context.find_root().command
    with cells.use(names[cell]), root.make_context("flask", [*command], obj=context.obj) as inner:
        root.invoke(inner)


def _find_state(organization_id: UUID) -> MoveState:
    try:
        return cell_moves.find_state(organization_id)
    except OrganizationNotFound:
        raise CommandError(f"There is no organization {ids.format_id('org', organization_id)}.") from None


def _count_organizations() -> int | None:
    try:
        with tenancy.system_session("cli.cells") as session:
            return int(session.scalar(_COUNT) or 0)
    except OperationalError:
        return None
