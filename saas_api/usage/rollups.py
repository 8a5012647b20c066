"""Rollups of the usage ledger by hour, and quantities from rollups and the tail of the ledger.

The tail is what the watermark has not reached, so a read is exact at any time.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.ids import NIL_UUID
from saas_api.core.observability import get_logger

log = get_logger(__name__)

_ROLLUP_COLUMNS = (
    "organization_id, billing_period_id, bucket_at, meter_code, source, api_key_id, is_late, dimensions, quantity,"
    " event_count"
)

# Of an event `e` with its meter `m`.
DIMENSIONS_SQL = """CASE WHEN m.dimensions = '{}' THEN '{}'::jsonb ELSE (
    SELECT coalesce(jsonb_object_agg(name, e.properties ->> name), '{}') FROM unnest(m.dimensions) AS name
    WHERE e.properties ? name) END"""

# A reversal has the source of the event that it reverses, and adds no event. The endpoint stands for the source where
# the service names one.
_LEDGER_COLUMNS = f"""e.organization_id, e.billing_period_id,
  date_trunc('hour', e.occurred_at, o.timezone) AS bucket_at, e.meter_code,
  coalesce(e.endpoint, r.source, e.source) AS source, coalesce(e.api_key_id, '{NIL_UUID}') AS api_key_id,
  e.late_for_period_id IS NOT NULL AS is_late,
  {DIMENSIONS_SQL} AS dimensions, e.quantity, (e.reversal_of IS NULL)::int AS event_count"""
_LEDGER_JOINS = """JOIN organizations o ON o.id = e.organization_id
  JOIN meters m ON m.code = e.meter_code
  LEFT JOIN usage_events r ON r.organization_id = e.organization_id AND r.id = e.reversal_of"""

# For WITH live AS (...); takes :organization_id. The tail is read period by period, because the ledger's index begins
# with the period; OFFSET 0 keeps the planner from reading every row of the organization instead.
LIVE_USAGE_SQL = f"""SELECT {_ROLLUP_COLUMNS} FROM usage_rollups WHERE organization_id = :organization_id
  UNION ALL
  SELECT {_LEDGER_COLUMNS} FROM usage_watermark w CROSS JOIN billing_periods p CROSS JOIN LATERAL (
    SELECT * FROM usage_events WHERE organization_id = :organization_id AND billing_period_id = p.id
      AND recorded_xid >= w.through_xid AND recorded_at > w.floor_at OFFSET 0) e {_LEDGER_JOINS}
  WHERE p.organization_id = :organization_id"""


def count_requests_by_period(session: Session, organization_id: UUID) -> dict[UUID, int]:
    """Number of accepted calls by the billing period that pays for them."""
    rows = session.execute(
        text(f"WITH live AS ({LIVE_USAGE_SQL}) SELECT billing_period_id, sum(event_count) FROM live GROUP BY 1"),
        {"organization_id": organization_id},
    )
    return {period_id: int(count) for period_id, count in rows}


_KEY = "organization_id, billing_period_id, bucket_at, meter_code, source, api_key_id, is_late, dimensions"
_MAX_TRANSACTIONS = 200_000
_LOCK_WATERMARK = text("""SELECT through_xid, floor_at,
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS settled,
    through_xid > 0 AND system_identifier = (SELECT system_identifier FROM pg_control_system()) AS is_started
  FROM usage_watermark FOR UPDATE""")
# The bounds are values, because the planner reads the whole ledger when another table gives them.
_ADD_SETTLED = text(f"""INSERT INTO usage_rollups AS r ({_ROLLUP_COLUMNS})
SELECT {_KEY}, sum(quantity), sum(event_count)
FROM (SELECT {_LEDGER_COLUMNS} FROM usage_events e {_LEDGER_JOINS}
      WHERE e.recorded_xid >= :from_xid AND e.recorded_xid < :through_xid AND e.recorded_at > :floor_at) settled
GROUP BY {_KEY}
ON CONFLICT ({_KEY}) DO UPDATE SET quantity = r.quantity + excluded.quantity,
  event_count = r.event_count + excluded.event_count""")
_RAISE_WATERMARK = text("UPDATE usage_watermark SET through_xid = :through_xid, rolled_at = now()")


def roll_up() -> None:
    """Add settled ledger rows to the rollups, each exactly once, in transactions of its own.

    The first run, and the first after a move to another database cluster, rebuilds everything instead.
    """
    is_behind = True
    while is_behind:
        with tenancy.system_session("usage.roll_up") as session:
            watermark = session.execute(_LOCK_WATERMARK).one()
            if watermark.is_started:
                is_behind = _add_settled(session, watermark)
            else:
                log.info("usage_rollups_rebased")
                _rebuild_all(session)
                is_behind = False


def _add_settled(session: SystemSession, watermark: Row[Any]) -> bool:
    """Add the rows of at most _MAX_TRANSACTIONS transactions; returns whether more of them are settled.

    Every row below `settled` is visible to the statements that follow, because its transaction had ended before.
    """
    tenancy.allow_long_statements(session)
    from_xid, settled = watermark.through_xid, watermark.settled
    through_xid = max(from_xid, min(settled, from_xid + _MAX_TRANSACTIONS))
    values = {"from_xid": from_xid, "through_xid": through_xid, "floor_at": watermark.floor_at}
    session.execute(_ADD_SETTLED, values)
    session.execute(_RAISE_WATERMARK, values)
    return bool(through_xid < settled)


_IN_ORGANIZATION = "(CAST(:organization_id AS uuid) IS NULL OR {}organization_id = :organization_id)"
_IN_RANGE = f"bucket_at >= :since AND {_IN_ORGANIZATION.format('')}"
# The rollups as they should be: the ledger up to the watermark, to which no transaction can add rows any more.
_ROLLED = f"""SELECT {_KEY}, sum(quantity) AS quantity, sum(event_count) AS event_count
  FROM (SELECT {_LEDGER_COLUMNS} FROM usage_events e {_LEDGER_JOINS} CROSS JOIN usage_watermark w
        WHERE (e.recorded_xid < w.through_xid OR e.recorded_at <= w.floor_at)
          AND e.occurred_at >= :since AND {_IN_ORGANIZATION.format("e.")}) AS rolled
  WHERE bucket_at >= :since GROUP BY {_KEY}"""
_DIFFERENCES = text(f"""WITH old AS (SELECT {_ROLLUP_COLUMNS} FROM usage_rollups WHERE {_IN_RANGE}), new AS ({_ROLLED})
SELECT count(*) FROM old FULL JOIN new USING ({_KEY})
WHERE (old.quantity, old.event_count) IS DISTINCT FROM (new.quantity, new.event_count)""")
_REPLACE = (
    text(f"DELETE FROM usage_rollups WHERE {_IN_RANGE}"),
    text(f"INSERT INTO usage_rollups ({_ROLLUP_COLUMNS}) {_ROLLED}"),
)


@dataclass(frozen=True)
class RebuildResult:
    """Result of a rebuild.

    rows: rollups written
    differences: rollups that were missing, superfluous or wrong before
    """

    rows: int
    differences: int


def rebuild_rollups(since: datetime | None = None, organization_id: UUID | None = None) -> RebuildResult:
    """Rebuild rollups from the ledger, in a transaction of its own.

    Without arguments all of them, which blocks writers of the ledger meanwhile.
    since: only hours that begin then or later
    organization_id: None for all
    """
    values: dict[str, Any] = {"since": since or "-infinity", "organization_id": organization_id}
    with tenancy.system_session("usage.roll_up") as session:
        is_started = session.execute(_LOCK_WATERMARK).one().is_started
        session.execute(text("SET LOCAL statement_timeout = 0"))
        differences = int(session.scalar(_DIFFERENCES, values) or 0)
        if not is_started or (since is None and organization_id is None):
            _rebuild_all(session)
        else:
            for statement in _REPLACE:
                session.execute(statement, values)
        rows = session.scalar(text(f"SELECT count(*) FROM usage_rollups WHERE {_IN_RANGE}"), values)
    return RebuildResult(int(rows or 0), differences)


def _rebuild_all(session: SystemSession) -> None:
    session.execute(text("SET LOCAL statement_timeout = 0"))
    session.execute(text("LOCK TABLE usage_events IN SHARE ROW EXCLUSIVE MODE"))
    session.execute(text("DELETE FROM usage_rollups"))
    session.execute(
        text(f"""INSERT INTO usage_rollups ({_ROLLUP_COLUMNS})
          SELECT {_KEY}, sum(quantity), sum(event_count)
          FROM (SELECT {_LEDGER_COLUMNS} FROM usage_events e {_LEDGER_JOINS}) AS fresh GROUP BY {_KEY}""")
    )
    session.execute(
        text("""UPDATE usage_watermark SET floor_at = clock_timestamp(), rolled_at = now(),
          through_xid = pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
          system_identifier = (SELECT system_identifier FROM pg_control_system())""")
    )
