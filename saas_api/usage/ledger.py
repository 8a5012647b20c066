"""UsageRecord, append statement, quantities of a period, events behind a line."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from saas_api.core import clock


@dataclass(frozen=True)
class UsageRecord:
    """One metered call, as it enters the ledger.

    source: what metered it, such as "messages.send"
    key: counts once for ever within organization and source
    quantity: in the meter's unit, above 0
    at: when it happened
    """

    id: UUID
    source: str
    key: str
    meter: str
    quantity: Decimal | int
    at: datetime
    api_key_id: UUID | None = None
    message_id: UUID | None = None


VERSION_IN_FORCE_SQL = """JOIN LATERAL (SELECT plan_version_id FROM subscription_segments
    WHERE organization_id = e.organization_id AND starts_at <= e.occurred_at
    ORDER BY seq DESC LIMIT 1) s ON true"""

_OF_A_LINE = f"""FROM usage_events e {VERSION_IN_FORCE_SQL}
WHERE e.organization_id = :organization_id AND e.billing_period_id = :period_id AND e.meter_code = :meter
  AND e.late_for_period_id IS NOT DISTINCT FROM CAST(:late_for_period_id AS uuid) AND s.plan_version_id = :version_id"""
_COUNT = text(f"""SELECT count(*) FILTER (WHERE e.reversal_of IS NULL), count(e.reversal_of),
  coalesce(sum(e.quantity), 0), min(e.occurred_at), max(e.occurred_at) {_OF_A_LINE}""")
# In the order of the ledger's index, so that a page costs no sorting of all of them.
_PAGE = text(f"""SELECT e.id, e.recorded_xid, e.occurred_at, e.recorded_at, e.meter_code, e.quantity, e.source,
  e.idempotency_key, e.api_key_id, e.message_id, e.reversal_of {_OF_A_LINE}
  AND e.recorded_xid >= :xid AND (e.recorded_xid, e.id) > (:xid, CAST(:id AS uuid))
ORDER BY e.recorded_xid, e.id LIMIT :limit""")


@dataclass(frozen=True)
class LineSlice:
    """The events of a line: one meter under one plan version, paid for by one period.

    late_for_period_id: the closed period in which they happened; None when they happened in the one that pays
    """

    organization_id: UUID
    period_id: UUID
    late_for_period_id: UUID | None
    version_id: str
    meter: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the statements."""
        return dict(vars(self))


@dataclass(frozen=True)
class SliceTotals:
    """What a slice adds up to.

    reversals: events taken back; their quantities are below zero
    """

    events: int
    reversals: int
    quantity: Decimal
    first_at: Any
    last_at: Any


def count_slice(session: Session, wanted: LineSlice) -> SliceTotals:
    """How many events and reversals there are, and their sum."""
    return SliceTotals(*session.execute(_COUNT, wanted.parameters).one())


def list_events(session: Session, wanted: LineSlice, after: RowMapping | None, limit: int) -> Sequence[RowMapping]:
    """The next events of a slice, reversals among them, in the order in which they were recorded.

    after: the last row of the page before
    """
    position = {"xid": after["recorded_xid"], "id": after["id"]} if after else {"xid": 0, "id": UUID(int=0)}
    return session.execute(_PAGE, {**wanted.parameters, **position, "limit": limit}).mappings().all()


_PERIOD_QUANTITIES = text(f"""
SELECT s.plan_version_id AS version_id, e.meter_code AS meter, sum(e.quantity) AS quantity
FROM usage_events e {VERSION_IN_FORCE_SQL}
WHERE e.organization_id = :organization_id AND e.billing_period_id = :period_id AND e.late_for_period_id IS NULL
GROUP BY 1, 2 ORDER BY 1, 2""")

_LATE = text(f"""
WITH facts AS (
  SELECT e.late_for_period_id AS period_id, s.plan_version_id, e.meter_code, e.quantity, e.billing_period_id
  FROM usage_events e {VERSION_IN_FORCE_SQL}
  WHERE e.organization_id = :organization_id AND e.billing_period_id = :period_id
    AND e.late_for_period_id IS NOT NULL),
asked AS (
  SELECT period_id, plan_version_id, meter_code, sum(quantity) AS quantity FROM facts GROUP BY 1, 2, 3),
billed AS (
  SELECT coalesce(e.late_for_period_id, e.billing_period_id) AS period_id, s.plan_version_id, e.meter_code,
    sum(e.quantity) AS quantity
  FROM usage_events e
  JOIN billing_periods paying ON paying.organization_id = e.organization_id AND paying.id = e.billing_period_id
  {VERSION_IN_FORCE_SQL}
  WHERE e.organization_id = :organization_id
    AND paying.seq < (SELECT seq FROM billing_periods WHERE organization_id = :organization_id AND id = :period_id)
    AND (e.late_for_period_id IN (SELECT period_id FROM asked)
      OR e.late_for_period_id IS NULL AND e.billing_period_id IN (SELECT period_id FROM asked))
  GROUP BY 1, 2, 3)
SELECT p.id AS period_id, p.starts_at, p.ends_at, a.plan_version_id AS version_id, a.meter_code AS meter,
  coalesce(b.quantity, 0) AS billed, a.quantity
FROM asked a JOIN billing_periods p ON p.organization_id = :organization_id AND p.id = a.period_id
LEFT JOIN billed b ON (b.period_id, b.plan_version_id, b.meter_code) = (a.period_id, a.plan_version_id, a.meter_code)
ORDER BY p.seq, 4, 5""")


def period_quantities(session: Session, organization_id: UUID, period_id: UUID) -> Sequence[RowMapping]:
    """What happened in the period: version_id in force at the time, meter, quantity."""
    return (
        session.execute(_PERIOD_QUANTITIES, {"organization_id": organization_id, "period_id": period_id})
        .mappings()
        .all()
    )


def late_period_quantities(session: Session, organization_id: UUID, period_id: UUID) -> Sequence[RowMapping]:
    """What happened in closed periods and this one pays for, by closed period, plan version and meter.

    returns: rows with the closed period's id and bounds, and the quantity it has been `billed` for before
    """
    return session.execute(_LATE, {"organization_id": organization_id, "period_id": period_id}).mappings().all()


def count_requests(session: Session, organization_id: UUID, period_id: UUID) -> int:
    """Accepted calls that the period pays for; reversals count none."""
    count = text("""SELECT count(*) FROM usage_events WHERE organization_id = :organization_id
      AND billing_period_id = :period_id AND reversal_of IS NULL""")
    return session.execute(count, {"organization_id": organization_id, "period_id": period_id}).scalar_one()


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


def append_usage_statement(
    organization_id: UUID, usage: UsageRecord, *, is_late: bool = False
) -> tuple[str, dict[str, Any]]:
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
