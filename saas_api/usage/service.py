"""Writing usage: statements for the ledger, counts of refused calls, quota counters of the gate, and rollups.

The ledger row is written inside the caller's batch; counts are added up in memory and written once a second.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core import clock, tenancy
from saas_api.core.access import Principal
from saas_api.core.app import Repeated
from saas_api.core.observe import get_logger
from saas_api.usage.queries import live
from saas_api.usage.queries.live import COLUMNS, LEDGER_COLUMNS, OWNERS
from saas_api.usage.rules import QuotaCounter, Usage, quarter_hour

log = get_logger(__name__)

_OPEN_AT = """(SELECT id FROM billing_periods WHERE organization_id = %(usage_org)s AND state = 'open'
  AND starts_at <= %(usage_at)s AND ends_at > %(usage_at)s)"""
_OPEN_NOW = """(SELECT id FROM billing_periods WHERE organization_id = %(usage_org)s AND state = 'open'
  AND starts_at <= %(usage_now)s AND ends_at > %(usage_now)s)"""
_EARLIEST_OPEN = """(SELECT id FROM billing_periods WHERE organization_id = %(usage_org)s AND state = 'open'
  ORDER BY seq LIMIT 1)"""
_CLOSED_AT = """(SELECT id FROM billing_periods WHERE organization_id = %(usage_org)s AND state <> 'open'
  AND starts_at <= %(usage_at)s AND ends_at > %(usage_at)s)"""
_APPEND = """INSERT INTO usage_events (organization_id, id, source, idempotency_key, meter_code, quantity, occurred_at,
  api_key_id, message_id, billing_period_id, late_for_period_id)
VALUES (%(usage_org)s, %(usage_id)s, %(usage_source)s, %(usage_key)s, %(usage_meter)s, %(usage_quantity)s, %(usage_at)s,
  %(usage_api_key)s, %(usage_message)s, """


def append_statement(organization_id: UUID, usage: Usage, *, is_late: bool = False) -> tuple[str, dict[str, Any]]:
    """One ledger row as a statement for `core.db.execute_once`.

    The shared period lock must stand in an earlier statement of the same batch. Without a period that is open at
    `usage.at` nothing is written: the database refuses the empty `billing_period_id`.
    is_late: where no open period contains `usage.at`, the running one pays, else the earliest open one, and the closed
    one is named
    """
    paying = f"coalesce({_OPEN_AT}, {_OPEN_NOW}, {_EARLIEST_OPEN})" if is_late else _OPEN_AT
    late_for = _CLOSED_AT if is_late else "NULL"
    values = {
        "usage_org": organization_id,
        "usage_id": usage.id,
        "usage_source": usage.source,
        "usage_key": usage.key,
        "usage_meter": usage.meter,
        "usage_quantity": usage.quantity,
        "usage_at": usage.at,
        "usage_now": clock.now(),
        "usage_api_key": usage.api_key_id,
        "usage_message": usage.message_id,
    }
    return f"{_APPEND}{paying}, {late_for})", values


@dataclass(frozen=True)
class _Refusal:
    organization_id: UUID
    quarter_at: datetime
    api_key_id: UUID
    route: str
    method: str
    mode: str
    outcome: str


_refusals: Counter[_Refusal] = Counter()
_refusals_lock = threading.Lock()
_writing = threading.Lock()


def count_refusal(principal: Principal, route: str, method: str, outcome: str) -> None:
    """Count one refused call under a key; costs no round trip.

    route: the rule, such as "/api/v1/messages/send", never the path with its ids
    outcome: "failed" or "rate_limited"
    """
    if principal.kind != "key":
        return
    refusal = _Refusal(
        principal.organization_id,
        quarter_hour(clock.now()),
        principal.id,
        route,
        method,
        principal.mode,
        outcome,
    )
    with _refusals_lock:
        _refusals[refusal] += 1
    _writer.ensure_started()


_UPSERT = text("""
INSERT INTO request_counts AS c (organization_id, bucket_at, api_key_id, route, method, mode, outcome, requests)
SELECT o.id, date_trunc('hour', v.quarter_at, o.timezone), v.api_key_id, v.route, v.method, v.mode, v.outcome, sum(v.n)
  FROM unnest(CAST(:organization_id AS uuid[]), CAST(:quarter_at AS timestamptz[]), CAST(:api_key_id AS uuid[]),
    CAST(:route AS text[]), CAST(:method AS text[]), CAST(:mode AS text[]), CAST(:outcome AS text[]),
    CAST(:n AS bigint[]))
    AS v(organization_id, quarter_at, api_key_id, route, method, mode, outcome, n)
  JOIN organizations o ON o.id = v.organization_id GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (organization_id, bucket_at, api_key_id, route, method, mode, outcome)
  DO UPDATE SET requests = c.requests + excluded.requests""")  # one order of rows: two processes never deadlock


def write_refusals() -> None:
    """Write what was counted since the last time, in one statement; what cannot be written is kept for the next."""
    with _writing:
        with _refusals_lock:
            counted = _refusals.copy()
            _refusals.clear()
        if not counted:
            return
        try:
            _write(counted)
        except Exception:
            with _refusals_lock:
                _refusals.update(counted)
            raise


def _write(counted: Counter[_Refusal]) -> None:
    columns: dict[str, list[Any]] = {
        column.name: [getattr(refusal, column.name) for refusal in counted] for column in fields(_Refusal)
    }
    with tenancy.as_system("usage.counts") as session:
        session.execute(_UPSERT, {**columns, "n": list(counted.values())})


_writer = Repeated(1, write_refusals)


def quota_counters(
    principal: Principal,
    units: Mapping[str, int],
    *,
    is_fresh: bool,
    period_id: UUID,
    ceilings: Mapping[str, Decimal],
) -> list[QuotaCounter]:
    """The gate's counters of meters that have a ceiling; none in test mode.

    units: what this request adds, by meter
    is_fresh: read what is used from PostgreSQL; otherwise 0, for Redis knows better
    ceilings: of the plan and its overrides, by meter, in the meter's unit
    """
    if principal.mode != "live" or not ceilings:
        return []
    known: Mapping[str, Decimal] = {}
    if is_fresh:
        with tenancy.transaction(principal.organization_id) as session:
            known = live.live_quantities(session, principal.organization_id, period_id)
    return [
        QuotaCounter(meter, units.get(meter, 0), int(ceiling), int(known.get(meter, 0)))
        for meter, ceiling in sorted(ceilings.items())
    ]


_KEY = "organization_id, billing_period_id, bucket_at, meter_code, source, api_key_id, is_late"
_LOCK = text("""SELECT through_xid > 0 AND system_identifier = (SELECT system_identifier FROM pg_control_system())
  FROM usage_watermark FOR UPDATE""")
_PASS = text(f"""
WITH w AS (SELECT through_xid AS old, floor_at, settled, least(settled, through_xid + 200000) AS new
           FROM usage_watermark, CAST(pg_snapshot_xmin(pg_current_snapshot())::text AS bigint) AS settled),
fresh AS (SELECT {LEDGER_COLUMNS} FROM usage_events e {OWNERS} CROSS JOIN w
          WHERE e.recorded_xid >= w.old AND e.recorded_xid < w.new AND e.recorded_at > w.floor_at),
up AS (INSERT INTO usage_rollups AS r ({COLUMNS})
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
        with tenancy.as_system("usage.roll_up") as session:
            if session.scalar(_LOCK):
                is_behind = bool(session.scalar(_PASS))
            else:
                log.info("usage_rollups_rebased")
                _rebase(session)
                is_behind = False


_OWNED = "(CAST(:organization_id AS uuid) IS NULL OR {}organization_id = :organization_id)"
_CHOSEN = f"bucket_at >= :since AND {_OWNED.format('')}"
# What the roll-ups so far should have come to: the ledger without its tail, whose rows no transaction can add to.
_ROLLED = f"""SELECT {_KEY}, sum(quantity) AS quantity, sum(event_count) AS event_count
  FROM (SELECT {LEDGER_COLUMNS} FROM usage_events e {OWNERS} CROSS JOIN usage_watermark w
        WHERE (e.recorded_xid < w.through_xid OR e.recorded_at <= w.floor_at)
          AND e.occurred_at >= :since AND {_OWNED.format("e.")}) AS rolled
  WHERE bucket_at >= :since GROUP BY {_KEY}"""
_DIFFERENCES = text(f"""WITH old AS (SELECT {COLUMNS} FROM usage_rollups WHERE {_CHOSEN}), new AS ({_ROLLED})
SELECT count(*) FROM old FULL JOIN new USING ({_KEY})
WHERE (old.quantity, old.event_count) IS DISTINCT FROM (new.quantity, new.event_count)""")
_REPLACE = (
    text(f"DELETE FROM usage_rollups WHERE {_CHOSEN}"),
    text(f"INSERT INTO usage_rollups ({COLUMNS}) {_ROLLED}"),
)


@dataclass(frozen=True)
class Rebuilt:
    """What making rollups anew has come to.

    rows: rollups that were written
    differences: rollups that were there and should not, should have been there, or said something else
    """

    rows: int
    differences: int


def rebuild_rollups(since: datetime | None = None, organization_id: UUID | None = None) -> Rebuilt:
    """Make rollups anew from the ledger; with neither argument all of them, and writers wait meanwhile.

    since: hours that begin then or later
    organization_id: None for all
    """
    values: dict[str, Any] = {"since": since or "-infinity", "organization_id": organization_id}
    with tenancy.as_system("usage.roll_up") as session:
        is_rolled = bool(session.scalar(_LOCK))
        session.execute(text("SET LOCAL statement_timeout = 0"))
        differences = int(session.scalar(_DIFFERENCES, values) or 0)
        if not is_rolled or (since is None and organization_id is None):
            _rebase(session)
        else:
            for statement in _REPLACE:
                session.execute(statement, values)
        rows = session.scalar(text(f"SELECT count(*) FROM usage_rollups WHERE {_CHOSEN}"), values)
    return Rebuilt(int(rows or 0), differences)


def _rebase(session: Session) -> None:
    session.execute(text("SET LOCAL statement_timeout = 0"))
    session.execute(text("LOCK TABLE usage_events IN SHARE ROW EXCLUSIVE MODE"))
    session.execute(text("DELETE FROM usage_rollups"))
    session.execute(
        text(f"""INSERT INTO usage_rollups ({COLUMNS})
          SELECT {_KEY}, sum(quantity), sum(event_count)
          FROM (SELECT {LEDGER_COLUMNS} FROM usage_events e {OWNERS}) AS fresh GROUP BY {_KEY}""")
    )
    session.execute(
        text("""UPDATE usage_watermark SET floor_at = clock_timestamp(), rolled_at = now(),
          through_xid = pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
          system_identifier = (SELECT system_identifier FROM pg_control_system())""")
    )
