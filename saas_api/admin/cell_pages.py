"""Pages and actions of one thing, such as an invoice, run in the cell that has it."""

import functools
from uuid import UUID

import sqlalchemy as sa
from flask import request

from saas_api.core.db import cells, tenancy

TABLES = {
    "invoice_id": "invoices",
    "payment_id": "payments",
    "refund_id": "refunds",
    "key_id": "api_keys",
    "endpoint_id": "webhook_endpoints",
    "delivery_id": "webhook_deliveries",
}
"""Table by the argument of a path that has no organization."""


def select_cell() -> None:
    """Make the cell of the organization whose invoice, payment, key or webhook the path names the current one.

    raises: OrganizationMoving; OperationalError or CellUnavailable when it may be in a cell that does not respond
    """
    arguments = request.view_args or {}
    if not cells.are_several() or "organization_id" in arguments:
        return
    for argument in TABLES.keys() & arguments.keys():
        find_owner = functools.partial(_find_owner, TABLES[argument], arguments[argument])
        if organization_id := cells.search(find_owner):
            cells.select(organization_id)


def _find_owner(table: str, thing_id: UUID) -> UUID | None:
    with tenancy.system_session("admin.find") as session:
        owner: UUID | None = session.scalar(
            sa.text(f"SELECT organization_id FROM {table} WHERE id = :id"), {"id": thing_id}
        )
        return owner
