"""Quantities of billing periods from rollups and the tail of the ledger, for what is only shown and for limits.

They equal those of `quantities`, which bills read from the ledger. Meters that do not add up are read from their events
in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core.ids import NIL_UUID
from saas_api.usage import ledger, quantities
from saas_api.usage.ledger import SEGMENTS_SQL, LineSlice
from saas_api.usage.quantities import (
    AGGREGATION_SQL,
    EXACT_COLUMNS,
    NOT_REVERSED,
    VALUE_SQL,
    Chain,
    LatePeriodQuantity,
)
from saas_api.usage.rollups import LIVE_USAGE_SQL


class LiveQuantity(NamedTuple):
    """What a period pays for so far, by closed period, plan version in force, meter and value of its dimension.

    late_period_id: the closed period in which the usage happened; None for usage of the period itself
    quantity: also of a meter that does not add up the sum
    requests: number of events
    """

    late_period_id: UUID | None
    version_id: str
    meter: str
    dimension_value: str
    aggregation: str
    quantity: Decimal
    requests: int


# Hours are summed before meters and prices are joined to them, because there are many and few sums.
def _live_quantities_sql(segments: str) -> str:
    return f"""WITH live AS ({LIVE_USAGE_SQL}),
  used AS (
    SELECT l.late_for_period_id, s.version_id, l.meter_code, l.dimensions, sum(l.quantity) AS quantity,
      sum(l.event_count) AS event_count
    FROM live l JOIN {segments} s ON l.bucket_at >= s.starts_at AND l.bucket_at < s.ends_at
    WHERE l.billing_period_id = :period_id GROUP BY 1, 2, 3, 4)
  SELECT nullif(u.late_for_period_id, '{NIL_UUID}'), u.version_id, u.meter_code, {VALUE_SQL}, {AGGREGATION_SQL},
    sum(u.quantity), sum(u.event_count)::bigint
  FROM used u JOIN meters m ON m.code = u.meter_code
  {quantities.price_join("u.version_id", "u.meter_code", "u.dimensions")}
  GROUP BY 1, 2, 3, 4, 5 ORDER BY 1 NULLS FIRST, 2, 3, 4"""


def list_live_quantities(
    session: Session, organization_id: UUID, period_id: UUID, chain: Chain | None = None
) -> list[LiveQuantity]:
    """Usage that a period pays for so far, late usage included.

    chain: plan versions with their starts, in order, as if the subscription had them; None for those that it has
    """
    segments, values = quantities.segments_sql(chain)
    values |= {"organization_id": organization_id, "period_id": period_id}
    return [LiveQuantity(*row) for row in session.execute(text(_live_quantities_sql(segments)), values)]


# What the closed periods have been charged for, and what the paying period adds.
_LATE_QUANTITIES = text(f"""WITH live AS ({LIVE_USAGE_SQL}),
of_late_periods AS (
  SELECT * FROM live WHERE billing_period_id = ANY (:late_periods) AND late_for_period_id = '{NIL_UUID}'
  UNION ALL
  SELECT * FROM live WHERE late_for_period_id = ANY (:late_periods) AND late_for_period_id <> '{NIL_UUID}'),
used AS (
  SELECT coalesce(nullif(l.late_for_period_id, '{NIL_UUID}'), l.billing_period_id) AS period_id,
    l.billing_period_id AS paying_id, s.version_id, l.meter_code, l.dimensions, sum(l.quantity) AS quantity
  FROM of_late_periods l JOIN {SEGMENTS_SQL} s ON l.bucket_at >= s.starts_at AND l.bucket_at < s.ends_at
  GROUP BY 1, 2, 3, 4, 5)
SELECT u.period_id, u.version_id, u.meter_code, {VALUE_SQL}, {AGGREGATION_SQL},
  coalesce(sum(u.quantity) FILTER (WHERE u.paying_id <> :period_id), 0),
  coalesce(sum(u.quantity) FILTER (WHERE u.paying_id = :period_id), 0)
FROM used u JOIN billing_periods paying ON paying.organization_id = :organization_id AND paying.id = u.paying_id
JOIN meters m ON m.code = u.meter_code
{quantities.price_join("u.version_id", "u.meter_code", "u.dimensions")}
WHERE paying.seq <= (SELECT seq FROM billing_periods WHERE organization_id = :organization_id AND id = :period_id)
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4""")


def late_period_quantities(
    session: Session, organization_id: UUID, period_id: UUID, late_periods: Sequence[UUID]
) -> list[LatePeriodQuantity]:
    """As `quantities.late_period_quantities`.

    late_periods: the closed periods whose late usage the period pays for
    """
    values = {"organization_id": organization_id, "period_id": period_id, "late_periods": list(late_periods)}
    rows = [LatePeriodQuantity(*row) for row in session.execute(_LATE_QUANTITIES, values)]
    return quantities.replace_late_sums(session, organization_id, period_id, rows)


_LIVE_TOTALS = text(f"""WITH live AS ({LIVE_USAGE_SQL}),
  used AS (SELECT meter_code, sum(quantity) AS quantity FROM live WHERE billing_period_id = :period_id GROUP BY 1)
  SELECT u.meter_code AS meter, {AGGREGATION_SQL} AS aggregation, u.quantity
  FROM used u JOIN meters m ON m.code = u.meter_code""")


def get_totals(session: Session, organization_id: UUID, period_id: UUID) -> dict[str, Decimal]:
    """Quantity by meter that a billing period pays for so far; meters that do not add up without late usage."""
    values = {"organization_id": organization_id, "period_id": period_id}
    rows = session.execute(_LIVE_TOTALS, values).all()
    exact_meters = {row.meter for row in rows if row.aggregation != "sum"}
    exact = quantities.exact_totals(session, organization_id, period_id, exact_meters)
    return {row.meter: exact.get(row.meter, Decimal(0)) if row.meter in exact_meters else row.quantity for row in rows}


class OccurredQuantity(NamedTuple):
    """Usage that occurred in a period, as if one plan version had been in force all the time."""

    period_id: UUID
    version_id: str
    meter: str
    dimension_value: str
    aggregation: str
    quantity: Decimal


_OCCURRED_SUMS = text(f"""
WITH live AS ({LIVE_USAGE_SQL}),
used AS (SELECT period_id, meter_code, dimensions, sum(quantity) AS quantity FROM (
    SELECT billing_period_id AS period_id, meter_code, dimensions, quantity FROM live
    WHERE billing_period_id = ANY (:periods) AND late_for_period_id = '{NIL_UUID}'
    UNION ALL
    SELECT late_for_period_id, meter_code, dimensions, quantity FROM live
    WHERE late_for_period_id = ANY (:periods) AND late_for_period_id <> '{NIL_UUID}') one GROUP BY 1, 2, 3)
SELECT u.period_id, v.id, u.meter_code, {VALUE_SQL}, {AGGREGATION_SQL}, sum(u.quantity)
FROM used u JOIN meters m ON m.code = u.meter_code CROSS JOIN unnest(CAST(:versions AS text[])) AS v (id)
{quantities.price_join("v.id", "u.meter_code", "u.dimensions")}
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4""")
_OCCURRED_FACTS = f"""
SELECT coalesce(e.late_for_period_id, e.billing_period_id) AS period_id, v.id AS version_id, e.meter_code,
  {VALUE_SQL} AS value, {EXACT_COLUMNS}
FROM usage_events e JOIN meters m ON m.code = e.meter_code
CROSS JOIN unnest(CAST(:versions AS text[])) AS v (id) {quantities.price_join("v.id", "e.meter_code", "e.properties")}
WHERE e.organization_id = :organization_id AND e.meter_code = ANY (:meters)
  AND (e.billing_period_id = ANY (:periods) AND e.late_for_period_id IS NULL OR e.late_for_period_id = ANY (:periods))
  AND {NOT_REVERSED}"""
_OCCURRED_EXACT = text(quantities.exact_sql("period_id, version_id, meter_code, value", _OCCURRED_FACTS))


def occurred_quantities(
    session: Session, organization_id: UUID, periods: Sequence[UUID], versions: Sequence[str]
) -> list[OccurredQuantity]:
    """Usage by the period in which it occurred, even if another one pays for it, under each of some plan versions."""
    values: dict[str, Any] = {
        "organization_id": organization_id,
        "periods": list(periods),
        "versions": sorted(set(versions)),
    }
    rows = [OccurredQuantity(*row) for row in session.execute(_OCCURRED_SUMS, values)]
    exact_meters = quantities.select_exact(rows)
    if not exact_meters:
        return rows
    exact = session.execute(_OCCURRED_EXACT, {**values, "meters": list(exact_meters)})
    return sorted(
        [
            *(row for row in rows if row.meter not in exact_meters),
            *(OccurredQuantity(*row) for row in exact),
        ]
    )


@dataclass(frozen=True)
class SliceTotals:
    """Totals of a slice.

    reversals: number of reversed events; the quantity of a reversal is negative
    quantity: sum of the quantities
    first_at, last_at: None without events
    """

    events: int
    reversals: int
    quantity: Decimal
    first_at: datetime | None
    last_at: datetime | None


_SLICE_TOTALS = text(f"""WITH live AS ({LIVE_USAGE_SQL})
SELECT coalesce(sum(l.event_count), 0)::bigint, coalesce(sum(l.reversal_count), 0)::bigint,
  coalesce(sum(l.quantity), 0), min(l.first_at), max(l.last_at)
FROM live l JOIN {SEGMENTS_SQL} s ON l.bucket_at >= s.starts_at AND l.bucket_at < s.ends_at
WHERE l.billing_period_id = :period_id AND l.meter_code = :meter AND s.version_id = :version_id
  AND l.late_for_period_id = coalesce(CAST(:late_for_period_id AS uuid), '{NIL_UUID}')
  AND {ledger.slice_value_condition("l.dimensions")}""")


def count_slice(session: Session, line: LineSlice) -> SliceTotals:
    """Number of events and reversals of an invoice line, and the sum of their quantities."""
    return SliceTotals(*session.execute(_SLICE_TOTALS, line.parameters).one())
