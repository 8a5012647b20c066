"""Copies of the meters, which are published at home, in the other cells."""

from saas_api.core.db import cells, row_copies, tenancy


def copy_meters(cell: str) -> None:
    """Copy every meter from home to a cell, in a transaction there. Idempotent."""
    with (
        tenancy.system_session("usage.home_rows") as home,
        cells.use(cell),
        tenancy.system_session("usage.cell_rows") as session,
    ):
        row_copies.copy_changes(home, session, "meters")
