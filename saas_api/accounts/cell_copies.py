"""Copies between the home cell and the others: users there, organizations with their members here.

The home cell decides who a user is; the others have copies of their members, for foreign keys and names. The cell of
an organization decides who belongs to it; home has a copy, from which people choose an organization when they sign in.
Each request asks the cell again. Copies follow each change that needs them at once, and every minute.
"""

from collections.abc import Collection
from uuid import UUID

import sqlalchemy as sa

from saas_api.core.db import cells, row_copies, tenancy

_USERS = "r.id = ANY (:ids) OR EXISTS (SELECT FROM operators o WHERE o.user_id = r.id)"
_NOT_TO_SIGN_IN = '{"password_hash": "!"}'  # home alone verifies passwords
_WITHOUT_NAME = '{"external_id": null}'  # unique at home: another organization may have what this one had
_FREE_ADDRESSES = sa.text("""
UPDATE users u SET email = u.id || '@changed.invalid'
FROM jsonb_populate_recordset(CAST(NULL AS users), CAST(:rows AS jsonb)) changed
WHERE u.email = changed.email AND u.id <> changed.id""")
"""Users whose address is another's by now, as when two have exchanged theirs; their own rows follow."""
_KNOWN_USERS = sa.text("SELECT id FROM users")
_ORGANIZATIONS = sa.text("SELECT id FROM organizations")


def copy_users(cell: str, user_ids: Collection[UUID]) -> None:
    """Copy users and every operator from home to a cell, in a transaction there."""
    ids = list(user_ids)
    with (
        tenancy.system_session("accounts.home_rows") as home,
        cells.use(cell),
        tenancy.system_session("accounts.cell_rows") as session,
    ):
        users = row_copies.read_changes(home, session, "users", _USERS, replaced=_NOT_TO_SIGN_IN, ids=ids)
        session.execute(_FREE_ADDRESSES, {"rows": users})
        row_copies.write_rows(session, "users", users)
        row_copies.copy_changes(home, session, "operators", deletes=True)


def copy_organizations(cell: str, organization_ids: Collection[UUID] | None = None) -> None:
    """Copy organizations and their memberships from a cell to home, in a transaction there.

    organization_ids: None for all of the cell
    """
    with (
        tenancy.system_session("accounts.home_rows") as home,
        cells.use(cell),
        tenancy.system_session("accounts.cell_rows") as session,
    ):
        ids = list(organization_ids if organization_ids is not None else session.scalars(_ORGANIZATIONS))
        owned = "r.organization_id = ANY (:ids)"
        changed = row_copies.read_changes(
            session, home, "organizations", "r.id = ANY (:ids)", replaced=_WITHOUT_NAME, ids=ids
        )
        row_copies.write_rows(home, "organizations", changed)
        row_copies.copy_changes(session, home, "memberships", owned, deletes=True, ids=ids)


def refresh_copies(cell: str) -> None:
    """Bring the copies of what a cell knows up to date."""
    with cells.use(cell), tenancy.system_session("accounts.cell_rows") as session:
        user_ids = session.scalars(_KNOWN_USERS).all()
    copy_users(cell, user_ids)
    copy_organizations(cell)
