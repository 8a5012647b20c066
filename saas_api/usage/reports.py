"""Accepted calls by day or hour, meter, source and key, from rollups and the tail of the ledger."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core.access import KeyMode
from saas_api.core.ids import NIL_UUID
from saas_api.usage import quantities, range_quantities
from saas_api.usage.quantities import AGGREGATION_SQL
from saas_api.usage.ranges import DateRange
from saas_api.usage.rollups import DIMENSIONS_SQL, LIVE_USAGE_SQL


@dataclass(frozen=True)
class AcceptedCalls:
    """Accepted calls of one day, meter, source, key and values of the meter's dimensions.

    segment: number of `boundaries` at or before them; 0 in test mode
    aggregation: "sum" for every meter that adds up; the quantities of others cannot be added
    quantity: in the meter's unit, less reversals
    """

    day: date
    meter: str
    source: str
    api_key_id: UUID | None
    segment: int
    dimensions: Mapping[str, str]
    aggregation: str
    quantity: Decimal
    requests: int


# Hours are summed before anything is joined to them, because there are many and few sums.
_LIVE_CALLS = text(f"""WITH live AS ({LIVE_USAGE_SQL}),
calls AS (
  SELECT (bucket_at AT TIME ZONE :zone)::date AS day, meter_code, source, api_key_id,
    width_bucket(bucket_at, CAST(:boundaries AS timestamptz[])) AS segment, dimensions, sum(quantity) AS quantity,
    sum(event_count)::bigint AS requests
  FROM live WHERE bucket_at >= :starts_at AND bucket_at < :ends_at GROUP BY 1, 2, 3, 4, 5, 6)
SELECT day, meter_code, source, nullif(api_key_id, '{NIL_UUID}'), segment, c.dimensions, {AGGREGATION_SQL}, quantity,
  requests
FROM calls c JOIN meters m ON m.code = c.meter_code ORDER BY 1, 2, 3, 4, 5, 6""")
_TEST_CALLS = text(f"""
SELECT (e.occurred_at AT TIME ZONE :zone)::date, e.meter_code, coalesce(e.endpoint, e.source), e.api_key_id, 0,
  {DIMENSIONS_SQL}, {AGGREGATION_SQL}, sum(e.quantity), count(*)
FROM test_usage_events e JOIN meters m ON m.code = e.meter_code
WHERE e.organization_id = :organization_id AND e.occurred_at >= :starts_at AND e.occurred_at < :ends_at
GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6""")
_CALL_GROUPS = {
    "day": "(e.occurred_at AT TIME ZONE :zone)::date",
    "meter": "e.meter_code",
    "source": "coalesce(e.endpoint, e.source)",
    "api_key_id": "e.api_key_id",
    "segment": "width_bucket(e.occurred_at, CAST(:boundaries AS timestamptz[]))",
    "dimensions": DIMENSIONS_SQL,
}


def accepted_calls(
    session: Session, organization_id: UUID, days: DateRange, boundaries: Sequence[datetime], mode: str
) -> list[AcceptedCalls]:
    """Accepted calls of hours that begin within the range; no bill contains those of test keys.

    boundaries: rising instants that separate the calls, the plan changes
    mode: "live" or "test"
    """
    is_live = mode == KeyMode.LIVE
    values: dict[str, Any] = {
        "organization_id": organization_id,
        "zone": days.zone.key,
        "starts_at": days.starts_at,
        "ends_at": days.ends_at,
        "boundaries": list(boundaries) if is_live else [],
    }
    rows = [AcceptedCalls(*row) for row in session.execute(_LIVE_CALLS if is_live else _TEST_CALLS, values)]
    exact_meters = quantities.select_exact(rows)
    exact = {
        (row["day"], row["meter"], row["source"], row["api_key_id"], row["segment"], str(row["dimensions"])): row
        for row in range_quantities.list_exact_quantities(session, _CALL_GROUPS, values, exact_meters, mode)
    }
    return [
        replace(row, quantity=exact[key]["quantity"] if (key := _key(row)) in exact else Decimal(0))
        if row.meter in exact_meters
        else row
        for row in rows
    ]


def _key(row: AcceptedCalls) -> tuple[Any, ...]:
    return row.day, row.meter, row.source, row.api_key_id, row.segment, str(row.dimensions)


_LIVE_COUNT = text(f"""WITH live AS ({LIVE_USAGE_SQL})
SELECT coalesce(sum(event_count), 0)::bigint FROM live WHERE bucket_at >= :starts_at AND bucket_at < :ends_at""")
_TEST_COUNT = text("""SELECT count(*) FROM test_usage_events
WHERE organization_id = :organization_id AND occurred_at >= :starts_at AND occurred_at < :ends_at""")


def count_accepted(session: Session, organization_id: UUID, starts_at: datetime, ends_at: datetime, mode: str) -> int:
    """Number of accepted calls of hours that begin within a time.

    mode: "live" or "test"
    """
    values = {"organization_id": organization_id, "starts_at": starts_at, "ends_at": ends_at}
    return int(session.execute(_LIVE_COUNT if mode == KeyMode.LIVE else _TEST_COUNT, values).scalar_one())


_LIVE_METERS = text(f"""WITH live AS ({LIVE_USAGE_SQL})
SELECT DISTINCT meter_code FROM live WHERE bucket_at >= :starts_at AND bucket_at < :ends_at""")
_TEST_METERS = text("""SELECT DISTINCT meter_code FROM test_usage_events
WHERE organization_id = :organization_id AND occurred_at >= :starts_at AND occurred_at < :ends_at""")


def used_meters(session: Session, organization_id: UUID, days: DateRange, mode: str) -> set[str]:
    """Codes of the meters with accepted calls within the range.

    mode: "live" or "test"
    """
    values = {"organization_id": organization_id, "starts_at": days.starts_at, "ends_at": days.ends_at}
    return set(session.scalars(_LIVE_METERS if mode == KeyMode.LIVE else _TEST_METERS, values))


def exact_totals(
    session: Session, organization_id: UUID, days: DateRange, meters: Collection[str], mode: str
) -> dict[str, Decimal]:
    """Quantities of meters that do not add up, over the whole range."""
    values = {"organization_id": organization_id, "starts_at": days.starts_at, "ends_at": days.ends_at}
    groups = {"meter": "e.meter_code"}
    rows = range_quantities.list_exact_quantities(session, groups, values, meters, mode)
    return dict.fromkeys(meters, Decimal(0)) | {row["meter"]: row["quantity"] for row in rows}


# The starts are instants, not a time zone: PostgreSQL has time zone data of its own, other than billing periods use.
_LIVE_POINTS = text(f"""WITH live AS ({LIVE_USAGE_SQL}),
points AS (
  SELECT width_bucket(bucket_at, CAST(:starts AS timestamptz[])) - 1 AS point, meter_code, source, api_key_id,
    width_bucket(bucket_at, CAST(:boundaries AS timestamptz[])) AS segment, dimensions, sum(quantity) AS quantity,
    sum(event_count)::bigint AS requests
  FROM live WHERE bucket_at >= :starts_at AND bucket_at < :ends_at
    AND (CAST(:meter AS text) IS NULL OR meter_code = :meter) GROUP BY 1, 2, 3, 4, 5, 6)
SELECT point, meter_code, source, nullif(api_key_id, '{NIL_UUID}'), segment, p.dimensions, {AGGREGATION_SQL}, quantity,
  requests
FROM points p JOIN meters m ON m.code = p.meter_code ORDER BY 1, 2, 3, 4, 5, 6""")
_TEST_POINTS = text(f"""SELECT width_bucket(e.occurred_at, CAST(:starts AS timestamptz[])) - 1, e.meter_code,
  coalesce(e.endpoint, e.source), e.api_key_id, 0, {DIMENSIONS_SQL}, {AGGREGATION_SQL}, sum(e.quantity), count(*)
FROM test_usage_events e JOIN meters m ON m.code = e.meter_code
WHERE e.organization_id = :organization_id AND e.occurred_at >= :starts_at AND e.occurred_at < :ends_at
  AND (CAST(:meter AS text) IS NULL OR e.meter_code = :meter)
GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6""")


@dataclass(frozen=True)
class TimeseriesRange:
    """Points and filters of a time series.

    starts: start of every point, rising
    ends_at: end of the last point
    boundaries: rising instants that separate the calls, the plan changes
    meter: None for all
    mode: "live" or "test"
    """

    starts: Sequence[datetime]
    ends_at: datetime
    boundaries: Sequence[datetime]
    meter: str | None
    mode: str


@dataclass(frozen=True)
class TimeseriesPoint:
    """Accepted calls of one point, meter, source, key and values of the meter's dimensions.

    point: index of its start
    segment: number of `boundaries` at or before them; 0 in test mode
    aggregation: "sum" for every meter that adds up
    quantity: 0 for another meter
    """

    point: int
    meter: str
    source: str
    api_key_id: UUID | None
    segment: int
    dimensions: Mapping[str, str]
    aggregation: str
    quantity: Decimal
    requests: int


@dataclass(frozen=True)
class ExactPoint:
    """Quantity of a meter that does not add up at one point.

    group: value of the property by which the series are grouped; None without groups
    """

    point: int
    meter: str
    group: str | UUID | None
    quantity: Decimal


DIMENSION_PREFIX = "dimension:"
"""Before the name of a dimension by which usage is grouped."""
_GROUPS = {"meter": "e.meter_code", "key": "e.api_key_id", "source": "coalesce(e.endpoint, e.source)"}


def group_of(row: AcceptedCalls | TimeseriesPoint, group_by: str | None) -> str | UUID | None:
    """The group of calls.

    group_by: "meter", "key", "source" or "dimension:NAME"; None for one group of all
    returns: None also for calls without a key, or without the dimension
    """
    if group_by and group_by.startswith(DIMENSION_PREFIX):
        return row.dimensions.get(group_by.removeprefix(DIMENSION_PREFIX))
    return {"meter": row.meter, "key": row.api_key_id, "source": row.source}.get(group_by or "")


def timeseries(session: Session, organization_id: UUID, span: TimeseriesRange) -> list[TimeseriesPoint]:
    """Calls of hours that begin within the span."""
    statement = _LIVE_POINTS if span.mode == KeyMode.LIVE else _TEST_POINTS
    points = [TimeseriesPoint(*row) for row in session.execute(statement, _span_values(organization_id, span))]
    return [point if point.aggregation == "sum" else replace(point, quantity=Decimal(0)) for point in points]


def exact_points(
    session: Session, organization_id: UUID, span: TimeseriesRange, meters: Collection[str], group_by: str | None
) -> list[ExactPoint]:
    """Quantities of meters that do not add up, in the groups of a time series.

    group_by: as for `group_of`
    """
    is_dimension = group_by is not None and group_by.startswith(DIMENSION_PREFIX)
    own_group = "e.properties ->> CAST(:dimension AS text)" if is_dimension else _GROUPS.get(group_by or "")
    groups = {
        "point": "width_bucket(e.occurred_at, CAST(:starts AS timestamptz[])) - 1",
        "meter": "e.meter_code",
        "own_group": own_group or "NULL::text",
    }
    values = _span_values(organization_id, span)
    if group_by is not None and is_dimension:
        values["dimension"] = group_by.removeprefix(DIMENSION_PREFIX)
    rows = range_quantities.list_exact_quantities(session, groups, values, meters, span.mode)
    return [ExactPoint(row["point"], row["meter"], row["own_group"], row["quantity"]) for row in rows]


def _span_values(organization_id: UUID, span: TimeseriesRange) -> dict[str, Any]:
    return {
        "organization_id": organization_id,
        "starts": list(span.starts),
        "boundaries": list(span.boundaries),
        "starts_at": span.starts[0],
        "ends_at": span.ends_at,
        "meter": span.meter,
    }
