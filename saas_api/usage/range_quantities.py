"""Quantities of a range of time: by the billing period in which the usage occurred, or of meters that do not add up."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from saas_api.core.access import KeyMode
from saas_api.core.ids import NIL_UUID
from saas_api.usage import quantities
from saas_api.usage.ledger import SEGMENTS_SQL
from saas_api.usage.quantities import AGGREGATION_SQL, EXACT_COLUMNS, NOT_REVERSED, VALUE_SQL
from saas_api.usage.ranges import DateRange
from saas_api.usage.rollups import LIVE_USAGE_SQL


class RangeQuantity(NamedTuple):
    """Usage of one meter under one plan version in a period.

    period_starts_at, period_ends_at: of the period
    dimension_value, aggregation: as of `PeriodQuantity`
    before, through: quantity of the period up to the start and up to the end of the range
    """

    period_starts_at: datetime
    period_ends_at: datetime
    version_id: str
    meter: str
    dimension_value: str
    aggregation: str
    before: Decimal
    through: Decimal


_PERIODS = """periods AS (
  SELECT organization_id, id, month, starts_at, ends_at FROM billing_periods
  WHERE organization_id = :organization_id AND ends_at > :starts_at AND starts_at < :ends_at)"""
_SUMS = text(f"""
WITH live AS ({LIVE_USAGE_SQL}), {_PERIODS},
used AS (
  SELECT coalesce(nullif(l.late_for_period_id, '{NIL_UUID}'), l.billing_period_id) AS period_id,
    s.version_id, l.meter_code, l.dimensions, coalesce(sum(l.quantity) FILTER (WHERE l.bucket_at < :starts_at), 0)
      AS before, sum(l.quantity) AS through
  FROM live l JOIN {SEGMENTS_SQL} s ON l.bucket_at >= s.starts_at AND l.bucket_at < s.ends_at
  WHERE l.bucket_at >= (SELECT min(starts_at) FROM periods) AND l.bucket_at < :ends_at GROUP BY 1, 2, 3, 4)
SELECT p.starts_at, p.ends_at, u.version_id, u.meter_code, {VALUE_SQL}, {AGGREGATION_SQL}, sum(u.before), sum(u.through)
FROM used u JOIN periods p ON p.id = u.period_id JOIN meters m ON m.code = u.meter_code
{quantities.price_join("u.version_id", "u.meter_code", "u.dimensions")}
GROUP BY 1, 2, 3, 4, 5, 6""")
_EXACT_FACTS = f"""
SELECT p.starts_at, p.ends_at, s.plan_version_id, e.meter_code, coalesce(d.dimension_value, '') AS value,
  moment.is_through, {EXACT_COLUMNS}
FROM periods p JOIN usage_events e ON e.organization_id = :organization_id
  AND (e.billing_period_id = p.id AND e.late_for_period_id IS NULL OR e.late_for_period_id = p.id)
JOIN meters m ON m.code = e.meter_code
JOIN subscription_segments s ON s.organization_id = :organization_id AND s.starts_at <= e.occurred_at
  AND (s.ends_at IS NULL OR s.ends_at > e.occurred_at)
{quantities.price_join("s.plan_version_id", "e.meter_code", "e.properties")}
JOIN (VALUES (false, CAST(:starts_at AS timestamptz)), (true, CAST(:ends_at AS timestamptz))) AS moment (is_through, at)
  ON e.occurred_at < moment.at
WHERE e.meter_code = ANY (:meters) AND {NOT_REVERSED}"""
_EXACT = text(f"""WITH {_PERIODS}, exact AS (
  {quantities.exact_sql("starts_at, ends_at, plan_version_id, meter_code, value, is_through", _EXACT_FACTS)})
SELECT starts_at, ends_at, plan_version_id, meter_code, value, aggregation,
  coalesce(sum(quantity) FILTER (WHERE NOT is_through), 0), coalesce(sum(quantity) FILTER (WHERE is_through), 0)
FROM exact GROUP BY 1, 2, 3, 4, 5, 6""")


_LIVE_EVENTS = """FROM periods p JOIN usage_events e ON e.organization_id = :organization_id
    AND (e.billing_period_id = p.id AND e.late_for_period_id IS NULL OR e.late_for_period_id = p.id)
  JOIN meters m ON m.code = e.meter_code
  LEFT JOIN usage_events r ON r.organization_id = e.organization_id AND r.reversal_of = e.id {joins}
  WHERE e.reversal_of IS NULL AND r.id IS NULL"""
_TEST_EVENTS = """FROM test_usage_events e JOIN meters m ON m.code = e.meter_code {joins}
  WHERE e.organization_id = :organization_id"""
_TEST_COLUMNS = """m.aggregation, e.quantity, e.properties ->> m.unique_property AS unique_value, e.occurred_at,
  0 AS recorded_xid, e.id"""


def list_exact_quantities(
    session: Session,
    groups: Mapping[str, str],
    values: Mapping[str, Any],
    meters: Collection[str],
    mode: str,
    joins: str = "",
) -> Sequence[RowMapping]:
    """Quantities of meters that do not add up between two instants.

    groups: SQL expressions on an event `e`, its meter `m` and what `joins` adds, by name
    values: parameters of the groups, organization_id, starts_at and ends_at
    returns: rows of the groups, aggregation and quantity; none without meters
    """
    if not meters:
        return []
    columns = ", ".join(f"{expression} AS {name}" for name, expression in groups.items())
    events, columns_of_event = (_LIVE_EVENTS, EXACT_COLUMNS) if mode == KeyMode.LIVE else (_TEST_EVENTS, _TEST_COLUMNS)
    facts = f"""SELECT {columns}, {columns_of_event} {events.format(joins=joins)}
      AND e.meter_code = ANY (:meters) AND e.occurred_at >= :starts_at AND e.occurred_at < :ends_at"""
    statement = text(f"WITH {_PERIODS} {quantities.exact_sql(', '.join(groups), facts)}")
    return session.execute(statement, {**values, "meters": list(meters)}).mappings().all()


def list_range_quantities(session: Session, organization_id: UUID, days: DateRange) -> list[RangeQuantity]:
    """Usage of every period that a range touches, up to the start and up to the end of the range, to the hour."""
    values = {"organization_id": organization_id, "starts_at": days.starts_at, "ends_at": days.ends_at}
    rows = [RangeQuantity(*row) for row in session.execute(_SUMS, values)]
    exact_meters = quantities.select_exact(rows)
    if not exact_meters:
        return rows
    exact = session.execute(_EXACT, {**values, "meters": list(exact_meters)})
    return [*(row for row in rows if row.meter not in exact_meters), *(RangeQuantity(*row) for row in exact)]


class RecentQuantity(NamedTuple):
    """Usage of a range, as if one plan version had been in force all the time."""

    version_id: str
    meter: str
    dimension_value: str
    aggregation: str
    quantity: Decimal


_RECENT_SUMS = text(f"""WITH live AS ({LIVE_USAGE_SQL}),
used AS (SELECT meter_code, dimensions, sum(quantity) AS quantity FROM live
  WHERE bucket_at >= :starts_at AND bucket_at < :ends_at GROUP BY 1, 2)
SELECT v.id, u.meter_code, coalesce(d.dimension_value, ''), {AGGREGATION_SQL}, sum(u.quantity)
FROM used u JOIN meters m ON m.code = u.meter_code CROSS JOIN unnest(CAST(:versions AS text[])) AS v (id)
{quantities.price_join("v.id", "u.meter_code", "u.dimensions")}
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3""")
_RECENT_VERSIONS = f"""CROSS JOIN unnest(CAST(:versions AS text[])) AS v (id)
{quantities.price_join("v.id", "e.meter_code", "e.properties")}"""


def list_recent_quantities(
    session: Session, organization_id: UUID, days: DateRange, versions: Sequence[str]
) -> list[RecentQuantity]:
    """Usage of a range under each of some plan versions; "" stands for one without prices by dimension."""
    values: dict[str, Any] = {
        "organization_id": organization_id,
        "starts_at": days.starts_at,
        "ends_at": days.ends_at,
        "versions": sorted(set(versions)),
    }
    rows = [RecentQuantity(*row) for row in session.execute(_RECENT_SUMS, values)]
    exact_meters = quantities.select_exact(rows)
    groups = {"version_id": "v.id", "meter": "e.meter_code", "dimension_value": "coalesce(d.dimension_value, '')"}
    exact = list_exact_quantities(session, groups, values, exact_meters, KeyMode.LIVE, joins=_RECENT_VERSIONS)
    return sorted([*(row for row in rows if row.meter not in exact_meters), *(RecentQuantity(**row) for row in exact)])
