"""Copies of the catalogue in cells other than home: meters and published plans.

They are published at home and copied at once. A cell that does not respond then gets its copy within a minute after it
responds again, like other changes, such as that a plan is archived.
"""

import sqlalchemy as sa

from saas_api.core.db import cells, row_copies, tenancy
from saas_api.usage import meter_copies

_IS_PUBLISHED = "EXISTS (SELECT FROM plan_versions v WHERE v.id = r.plan_version_id AND v.state <> 'draft')"
_PARTS = ("prices", "price_tiers", "entitlements")
_IS_NEW = "NOT EXISTS (SELECT FROM plan_versions v WHERE v.id = new.plan_version_id AND v.state <> 'draft')"


def copy_catalogue(cell: str) -> None:
    """Copy meters and published plans from home to a cell, in two transactions there. Idempotent."""
    meter_copies.copy_meters(cell)
    with (
        tenancy.system_session("billing.home_rows") as home,
        cells.use(cell),
        tenancy.system_session("billing.cell_rows") as session,
    ):
        versions = row_copies.read_changes(home, session, "plan_versions", "r.state <> 'draft'")
        row_copies.copy_changes(home, session, "plans")
        parts = {table: row_copies.read_changes(home, session, table, _IS_PUBLISHED) for table in _PARTS}
        # The parts of a version that is published are frozen, so a version arrives as a draft.
        session.execute(
            sa.text("""INSERT INTO plan_versions
              SELECT (jsonb_populate_record(CAST(NULL AS plan_versions),
                v || '{"state": "draft", "published_at": null}')).*
              FROM jsonb_array_elements(CAST(:rows AS jsonb)) v ON CONFLICT DO NOTHING"""),
            {"rows": versions},
        )
        for table in _PARTS:
            new = sa.text(f"""SELECT coalesce(jsonb_agg(to_jsonb(new)), '[]')::text
              FROM jsonb_populate_recordset(CAST(NULL AS {table}), CAST(:rows AS jsonb)) new WHERE {_IS_NEW}""")
            row_copies.write_rows(session, table, str(session.scalar(new, {"rows": parts[table]})), is_update=False)
        for state in ("published", "retired"):
            _set_state(session, versions, state)


def _set_state(session: tenancy.SystemSession, versions: str, state: str) -> None:
    session.execute(
        sa.text("""UPDATE plan_versions old SET state = :state, published_at = new.published_at
          FROM jsonb_populate_recordset(CAST(NULL AS plan_versions), CAST(:rows AS jsonb)) new
          WHERE new.id = old.id AND old.state <> new.state AND (new.state = :state OR old.state = 'draft')"""),
        {"rows": versions, "state": state},
    )
