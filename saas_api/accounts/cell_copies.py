"""Copies between the home cell and the others: users there, organizations with their members here.

The home cell decides who a user is; the others have copies of their members, for foreign keys and names. The cell of
an organization decides who belongs to it; home has a copy, from which people choose an organization when they sign in.
Each request asks the cell again. Copies follow each change that needs them at once, and every minute.
"""

from collections.abc import Collection
from uuid import UUID

import sqlalchemy as sa

from saas_api.core.db import cells, row_copies, tenancy

_REPLACED = '{"password_hash": "!"}'  # home alone verifies passwords
_KNOWN_USERS = sa.text("SELECT id FROM users")
_ORGANIZATIONS = sa.text("SELECT id FROM organizations")
_DELETE_MEMBERSHIPS = sa.text("DELETE FROM memberships WHERE organization_id = ANY (:ids)")
_OWNED = "r.organization_id = ANY (:ids)"


def copy_users(cell: str, user_ids: Collection[UUID]) -> None:
    """Copy users and every operator from home to a cell, in a transaction there."""
    with tenancy.system_session("accounts.home_rows") as home:
        operators = row_copies.read_rows(home, "operators", "true", {})
        condition = "r.id = ANY (:ids) OR EXISTS (SELECT FROM operators o WHERE o.user_id = r.id)"
        users = row_copies.read_rows(home, "users", condition, {"ids": list(user_ids)}, _REPLACED)
    with cells.use(cell), tenancy.system_session("accounts.cell_rows") as session:
        row_copies.write_rows(session, "users", users)
        row_copies.write_rows(session, "operators", operators)
        session.execute(
            sa.text("""DELETE FROM operators WHERE user_id NOT IN (
              SELECT user_id FROM jsonb_populate_recordset(CAST(NULL AS operators), CAST(:rows AS jsonb)))"""),
            {"rows": operators},
        )


def copy_organizations(cell: str, organization_ids: Collection[UUID] | None = None) -> None:
    """Copy organizations and their memberships from a cell to home, in a transaction there.

    organization_ids: None for all of the cell
    """
    with cells.use(cell), tenancy.system_session("accounts.cell_rows") as session:
        ids = list(organization_ids if organization_ids is not None else session.scalars(_ORGANIZATIONS))
        organizations = row_copies.read_rows(session, "organizations", "r.id = ANY (:ids)", {"ids": ids})
        memberships = row_copies.read_rows(session, "memberships", _OWNED, {"ids": ids})
    with tenancy.system_session("accounts.home_rows") as home:
        row_copies.write_rows(home, "organizations", organizations)
        if row_copies.read_rows(home, "memberships", _OWNED, {"ids": ids}) != memberships:
            home.execute(_DELETE_MEMBERSHIPS, {"ids": ids})
            row_copies.write_rows(home, "memberships", memberships)


def refresh_copies(cell: str) -> None:
    """Bring the copies of what a cell knows up to date."""
    with cells.use(cell), tenancy.system_session("accounts.cell_rows") as session:
        user_ids = session.scalars(_KNOWN_USERS).all()
    copy_users(cell, user_ids)
    copy_organizations(cell)
