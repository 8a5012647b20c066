"""Roll up, rebuild, live quantities."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core.db import tenancy
from saas_api.core.observability import get_logger

log = get_logger(__name__)

NIL_UUID = "00000000-0000-0000-0000-000000000000"
ROLLUP_COLUMNS = (
    "organization_id, billing_period_id, bucket_at, meter_code, source, api_key_id, is_late, quantity, event_count"
)

# A reversal counts under the source of what it takes back, and counts no event.
LEDGER_COLUMNS = f"""e.organization_id, e.billing_period_id,
  date_trunc('hour', e.occurred_at, o.timezone) AS bucket_at, e.meter_code, coalesce(r.source, e.source) AS source,
  coalesce(e.api_key_id, '{NIL_UUID}') AS api_key_id, e.late_for_period_id IS NOT NULL AS is_late,
  e.quantity, (e.reversal_of IS NULL)::int AS event_count"""
PERIOD_OWNERS_SQL = """JOIN organizations o ON o.id = e.organization_id
  LEFT JOIN usage_events r ON r.organization_id = e.organization_id AND r.id = e.reversal_of"""

# To be used as WITH live AS (...); takes :organization_id. The tail is read period by period, since the ledger's index
# begins with the period; OFFSET 0 holds the planner to it, which would read every row of the organization instead.
LIVE_USAGE_SQL = f"""SELECT {ROLLUP_COLUMNS} FROM usage_rollups WHERE organization_id = :organization_id
  UNION ALL
  SELECT {LEDGER_COLUMNS} FROM usage_watermark w CROSS JOIN billing_periods p CROSS JOIN LATERAL (
    SELECT * FROM usage_events WHERE organization_id = :organization_id AND billing_period_id = p.id
      AND recorded_xid >= w.through_xid AND recorded_at > w.floor_at OFFSET 0) e {PERIOD_OWNERS_SQL}
  WHERE p.organization_id = :organization_id"""


def live_quantities(session: Session, organization_id: UUID, period_id: UUID) -> dict[str, Decimal]:
    """Quantity by meter that a billing period owns at this moment, late usage included."""
    rows = session.execute(
        text(f"""WITH live AS ({LIVE_USAGE_SQL})
          SELECT meter_code, sum(quantity) FROM live WHERE billing_period_id = :period_id GROUP BY 1"""),
        {"organization_id": organization_id, "period_id": period_id},
    )
    return dict(rows.all())


def count_requests_by_period(session: Session, organization_id: UUID) -> dict[UUID, int]:
    """Accepted calls by the billing period that pays for them."""
    rows = session.execute(
        text(f"WITH live AS ({LIVE_USAGE_SQL}) SELECT billing_period_id, sum(event_count) FROM live GROUP BY 1"),
        {"organization_id": organization_id},
    )
    return {period_id: int(count) for period_id, count in rows}


_KEY = "organization_id, billing_period_id, bucket_at, meter_code, source, api_key_id, is_late"
_LOCK = text("""SELECT through_xid > 0 AND system_identifier = (SELECT system_identifier FROM pg_control_system())
  FROM usage_watermark FOR UPDATE""")
_PASS = text(f"""
WITH w AS (SELECT through_xid AS old, floor_at, settled, least(settled, through_xid + 200000) AS new
           FROM usage_watermark, CAST(pg_snapshot_xmin(pg_current_snapshot())::text AS bigint) AS settled),
fresh AS (SELECT {LEDGER_COLUMNS} FROM usage_events e {PERIOD_OWNERS_SQL} CROSS JOIN w
          WHERE e.recorded_xid >= w.old AND e.recorded_xid < w.new AND e.recorded_at > w.floor_at),
up AS (INSERT INTO usage_rollups AS r ({ROLLUP_COLUMNS})
       SELECT {_KEY}, sum(quantity), sum(event_count) FROM fresh GROUP BY {_KEY}
       ON CONFLICT ({_KEY}) DO UPDATE SET quantity = r.quantity + excluded.quantity,
         event_count = r.event_count + excluded.event_count RETURNING 1)
UPDATE usage_watermark SET through_xid = greatest(w.new, through_xid), rolled_at = now() FROM w
RETURNING w.new < w.settled""")


def roll_up() -> None:
    """Move settled ledger rows into rollups, each exactly once.

    The first time, and in another cluster than the last time, everything is rebuilt instead.
    """
    is_behind = True
    while is_behind:
        with tenancy.system_session("usage.roll_up") as session:
            if session.scalar(_LOCK):
                is_behind = bool(session.scalar(_PASS))
            else:
                log.info("usage_rollups_rebased")
                _move_watermark(session)
                is_behind = False


_LOCK_RANGE = "(CAST(:organization_id AS uuid) IS NULL OR {}organization_id = :organization_id)"
_CHOSEN = f"bucket_at >= :since AND {_LOCK_RANGE.format('')}"
# What the roll-ups so far should have come to: the ledger without its tail, whose rows no transaction can add to.
_ROLLED = f"""SELECT {_KEY}, sum(quantity) AS quantity, sum(event_count) AS event_count
  FROM (SELECT {LEDGER_COLUMNS} FROM usage_events e {PERIOD_OWNERS_SQL} CROSS JOIN usage_watermark w
        WHERE (e.recorded_xid < w.through_xid OR e.recorded_at <= w.floor_at)
          AND e.occurred_at >= :since AND {_LOCK_RANGE.format("e.")}) AS rolled
  WHERE bucket_at >= :since GROUP BY {_KEY}"""
_DIFFERENCES = text(f"""WITH old AS (SELECT {ROLLUP_COLUMNS} FROM usage_rollups WHERE {_CHOSEN}), new AS ({_ROLLED})
SELECT count(*) FROM old FULL JOIN new USING ({_KEY})
WHERE (old.quantity, old.event_count) IS DISTINCT FROM (new.quantity, new.event_count)""")
_REPLACE = (
    text(f"DELETE FROM usage_rollups WHERE {_CHOSEN}"),
    text(f"INSERT INTO usage_rollups ({ROLLUP_COLUMNS}) {_ROLLED}"),
)


@dataclass(frozen=True)
class RebuildResult:
    """What making rollups anew has come to.

    rows: rollups that were written
    differences: rollups that were there and should not, should have been there, or said something else
    """

    rows: int
    differences: int


def rebuild_rollups(since: datetime | None = None, organization_id: UUID | None = None) -> RebuildResult:
    """Make rollups anew from the ledger; with neither argument all of them, and writers wait meanwhile.

    since: hours that begin then or later
    organization_id: None for all
    """
    values: dict[str, Any] = {"since": since or "-infinity", "organization_id": organization_id}
    with tenancy.system_session("usage.roll_up") as session:
        is_rolled = bool(session.scalar(_LOCK))
        session.execute(text("SET LOCAL statement_timeout = 0"))
        differences = int(session.scalar(_DIFFERENCES, values) or 0)
        if not is_rolled or (since is None and organization_id is None):
            _move_watermark(session)
        else:
            for statement in _REPLACE:
                session.execute(statement, values)
        rows = session.scalar(text(f"SELECT count(*) FROM usage_rollups WHERE {_CHOSEN}"), values)
    return RebuildResult(int(rows or 0), differences)


def _move_watermark(session: Session) -> None:
    session.execute(text("SET LOCAL statement_timeout = 0"))
    session.execute(text("LOCK TABLE usage_events IN SHARE ROW EXCLUSIVE MODE"))
    session.execute(text("DELETE FROM usage_rollups"))
    session.execute(
        text(f"""INSERT INTO usage_rollups ({ROLLUP_COLUMNS})
          SELECT {_KEY}, sum(quantity), sum(event_count)
          FROM (SELECT {LEDGER_COLUMNS} FROM usage_events e {PERIOD_OWNERS_SQL}) AS fresh GROUP BY {_KEY}""")
    )
    session.execute(
        text("""UPDATE usage_watermark SET floor_at = clock_timestamp(), rolled_at = now(),
          through_xid = pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
          system_identifier = (SELECT system_identifier FROM pg_control_system())""")
    )
