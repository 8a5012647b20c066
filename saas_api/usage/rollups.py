"""Rollups of the usage ledger by hour, and quantities from rollups and the tail of the ledger.

The tail is what the watermark has not reached, so a read is exact at any time. An hour in which a plan version or a
billing period begins has a rollup before and one after that instant, so the plan in force at the start of a rollup was
in force for all of it. Events that are dated ahead of their recording wait until their time is over: a change of plan
takes effect now or later, so it divides no rollup that exists.
"""

from collections.abc import Collection
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
from saas_api.usage.ledger import IN_LEDGER

log = get_logger(__name__)

_KEY = "organization_id, billing_period_id, late_for_period_id, bucket_at, meter_code, source, api_key_id, dimensions"
_ROLLUP_COLUMNS = f"{_KEY}, quantity, event_count, reversal_count, first_at, last_at"
_SUMS = """sum(quantity) AS quantity, sum(event_count) AS event_count, sum(reversal_count) AS reversal_count,
  min(first_at) AS first_at, max(last_at) AS last_at"""

# Of an event `e` with its meter `m`.
DIMENSIONS_SQL = """CASE WHEN m.dimensions = '{}' THEN '{}'::jsonb ELSE (
    SELECT coalesce(jsonb_object_agg(name, e.properties ->> name), '{}') FROM unnest(m.dimensions) AS name
    WHERE e.properties ? name) END"""


# A reversal has the source of the event that it reverses. A join with the reversed events would compare each event with
# all of them, where PostgreSQL expects few.
_SOURCE = """CASE WHEN e.reversal_of IS NULL THEN e.source ELSE (SELECT r.source FROM usage_events r
      WHERE r.organization_id = e.organization_id AND r.id = e.reversal_of) END"""


def _event_columns(bucket_at: str, source: str) -> str:
    """An event `e` as a row of rollups; a reversal adds no event.

    bucket_at, source: SQL expressions; the endpoint stands for the source where the service names one
    """
    return f"""e.organization_id, e.billing_period_id, coalesce(e.late_for_period_id, '{NIL_UUID}') AS
  late_for_period_id, {bucket_at} AS bucket_at, e.meter_code, coalesce(e.endpoint, {source}) AS source,
  coalesce(e.api_key_id, '{NIL_UUID}') AS api_key_id, {DIMENSIONS_SQL} AS dimensions, e.quantity,
  (e.reversal_of IS NULL)::int AS event_count, (e.reversal_of IS NOT NULL)::int AS reversal_count,
  e.occurred_at AS first_at, e.occurred_at AS last_at"""


_METER = "JOIN meters m ON m.code = e.meter_code"
_LIVE_COLUMNS = _event_columns("e.occurred_at", "e.source")
IN_TAIL = "recorded_xid >= usage_rolled_through() AND recorded_at > (SELECT floor_at FROM usage_watermark)"
"""Whether the watermark has not reached a ledger row.

The planner calls the stable function; of a value that it does not know it expects a third of the ledger above it.
"""

# For WITH live AS (...); takes :organization_id. `late_for_period_id` is the nil id for usage of its own period.
LIVE_USAGE_SQL = f"""SELECT {_ROLLUP_COLUMNS} FROM usage_rollups WHERE organization_id = :organization_id
  UNION ALL
  SELECT {_LIVE_COLUMNS} FROM usage_tail(:organization_id) e {_METER}"""


def count_requests(session: Session, organization_id: UUID, periods: Collection[UUID]) -> dict[UUID, int]:
    """Number of accepted calls that billing periods pay for; a period without any is missing."""
    rows = session.execute(
        text(f"""WITH live AS ({LIVE_USAGE_SQL}) SELECT billing_period_id, sum(event_count) FROM live
          WHERE billing_period_id = ANY (:periods) GROUP BY 1"""),
        {"organization_id": organization_id, "periods": list(periods)},
    )
    return {period_id: int(count) for period_id, count in rows}


_ROLLED_COLUMNS = _event_columns(
    "greatest(date_trunc('hour', e.occurred_at, o.timezone), happened.starts_at, s.starts_at)", _SOURCE
)
_ROLLED_JOINS = f"""JOIN organizations o ON o.id = e.organization_id
  JOIN billing_periods happened ON happened.organization_id = e.organization_id
    AND happened.id = coalesce(e.late_for_period_id, e.billing_period_id)
  LEFT JOIN subscription_segments s ON s.organization_id = e.organization_id AND s.starts_at <= e.occurred_at
    AND (s.ends_at IS NULL OR s.ends_at > e.occurred_at) {_METER}"""
# The minute is more than clocks of hosts differ and than a change of plan takes to commit.
_LAST_ROLLED = "greatest(e.recorded_at, now() - interval '1 minute')"
_MAX_TRANSACTIONS = 200_000
_LOCK_WATERMARK = text("""SELECT through_xid, floor_at,
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS settled,
    through_xid > 0 AND system_identifier = (SELECT system_identifier FROM pg_control_system()) AS is_started
  FROM usage_watermark FOR UPDATE""")
# The bounds are values, because the planner reads the whole ledger when another table gives them.
_SETTLED = """e.recorded_xid >= :from_xid AND e.recorded_xid < :through_xid AND e.recorded_at > :floor_at"""
_ADD_SETTLED = text(f"""
WITH due AS (DELETE FROM usage_events_ahead WHERE occurred_at <= now() - interval '1 minute'
  RETURNING organization_id, event_id, month)
INSERT INTO usage_rollups AS r ({_ROLLUP_COLUMNS})
SELECT {_KEY}, {_SUMS}
FROM (SELECT {_ROLLED_COLUMNS} FROM usage_events e {_ROLLED_JOINS}
      WHERE {_SETTLED} AND e.occurred_at <= {_LAST_ROLLED}
      UNION ALL
      SELECT {_ROLLED_COLUMNS}
      FROM due CROSS JOIN LATERAL (
        SELECT * FROM usage_events WHERE organization_id = due.organization_id AND id = due.event_id
          AND month = due.month OFFSET 0) e
      {_ROLLED_JOINS}) settled
GROUP BY {_KEY}
ON CONFLICT ({_KEY}) DO UPDATE SET quantity = r.quantity + excluded.quantity,
  event_count = r.event_count + excluded.event_count, reversal_count = r.reversal_count + excluded.reversal_count,
  first_at = least(r.first_at, excluded.first_at), last_at = greatest(r.last_at, excluded.last_at)""")
_KEEP_AHEAD = f"""INSERT INTO usage_events_ahead (organization_id, event_id, month, occurred_at)
SELECT e.organization_id, e.id, e.month, e.occurred_at FROM usage_events e WHERE e.occurred_at > {_LAST_ROLLED}"""
_KEEP_SETTLED_AHEAD = text(f"{_KEEP_AHEAD} AND {_SETTLED}")
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
    for statement in (_ADD_SETTLED, _KEEP_SETTLED_AHEAD, _RAISE_WATERMARK):
        session.execute(statement, values)
    return bool(through_xid < settled)


_IN_ORGANIZATION = "(CAST(:organization_id AS uuid) IS NULL OR {}organization_id = :organization_id)"
_IN_RANGE = f"bucket_at >= :since AND {_IN_ORGANIZATION.format('')}"
IS_ROLLED = """NOT (e.recorded_xid >= w.through_xid AND e.recorded_at > w.floor_at) AND NOT EXISTS (
  SELECT FROM usage_events_ahead a WHERE a.organization_id = e.organization_id AND a.event_id = e.id)"""
"""Of an event `e` and the watermark `w`: whether the rollups contain the event."""
# The rollups as they should be: the ledger up to the watermark, to which no transaction can add rows any more.
_ROLLED = f"""SELECT {_KEY}, {_SUMS}
  FROM (SELECT {_ROLLED_COLUMNS} FROM usage_events e {_ROLLED_JOINS} CROSS JOIN usage_watermark w
        WHERE {IS_ROLLED} AND e.occurred_at >= :since AND {_IN_ORGANIZATION.format("e.")}) AS rolled
  WHERE bucket_at >= :since GROUP BY {_KEY}"""
# Rollups stay when their events are archived.
_IS_REBUILDABLE = f"""NOT EXISTS (SELECT FROM billing_periods p WHERE p.organization_id = r.organization_id
  AND p.id = r.billing_period_id AND NOT ({IN_LEDGER}))"""
_DIFFERENCES = text(f"""WITH old AS (
  SELECT {_ROLLUP_COLUMNS} FROM usage_rollups r WHERE {_IN_RANGE} AND {_IS_REBUILDABLE}), new AS ({_ROLLED})
SELECT count(*) FROM old FULL JOIN new USING ({_KEY})
WHERE (old.quantity, old.event_count, old.reversal_count, old.first_at, old.last_at)
  IS DISTINCT FROM (new.quantity, new.event_count, new.reversal_count, new.first_at, new.last_at)""")
_REPLACE = (
    text(f"DELETE FROM usage_rollups r WHERE {_IN_RANGE} AND {_IS_REBUILDABLE}"),
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
    with tenancy.system_session("usage.roll_up") as session:
        return _rebuild(session, since, organization_id)


def _rebuild(session: Session, since: datetime | None, organization_id: UUID | None) -> RebuildResult:
    values: dict[str, Any] = {"since": since or "-infinity", "organization_id": organization_id}
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


_REBUILD_ALL = (
    text(f"DELETE FROM usage_rollups r WHERE {_IS_REBUILDABLE}"),
    text("DELETE FROM usage_events_ahead"),
    text(_KEEP_AHEAD),
    text(f"""INSERT INTO usage_rollups ({_ROLLUP_COLUMNS})
      SELECT {_KEY}, {_SUMS}
      FROM (SELECT {_ROLLED_COLUMNS} FROM usage_events e {_ROLLED_JOINS}
            WHERE e.occurred_at <= {_LAST_ROLLED}) AS fresh GROUP BY {_KEY}"""),
    text("""UPDATE usage_watermark SET floor_at = clock_timestamp(), rolled_at = now(),
      through_xid = pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
      system_identifier = (SELECT system_identifier FROM pg_control_system())"""),
)


_KEEP_ADOPTED_AHEAD = text(f"""{_KEEP_AHEAD} AND e.organization_id = :organization_id AND NOT EXISTS (
  SELECT FROM usage_watermark w WHERE e.recorded_xid >= w.through_xid AND e.recorded_at > w.floor_at)
  ON CONFLICT DO NOTHING""")


def adopt(session: Session, organization_id: UUID) -> None:
    """Make the rollups of an organization whose ledger was copied from another database.

    The watermark is that of the database, and stays: it has passed the copied rows that were recorded before its floor.
    It is locked until the caller's transaction ends, and waited for as long as it takes.
    session: sees the copied rows, also while they are hidden; the transaction that shows them, or `roll_up` may raise
        the watermark in between
    """
    session.execute(text("SET LOCAL lock_timeout = 0"))
    session.execute(_LOCK_WATERMARK)
    session.execute(_KEEP_ADOPTED_AHEAD, {"organization_id": organization_id})
    _rebuild(session, None, organization_id)


def _rebuild_all(session: Session) -> None:
    session.execute(text("SET LOCAL statement_timeout = 0"))
    session.execute(text("LOCK TABLE usage_events IN SHARE ROW EXCLUSIVE MODE"))
    for statement in _REBUILD_ALL:
        session.execute(statement)
