"""Accepted calls by day or hour, meter, source and key, from rollups and the tail of the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core.access import KeyMode
from saas_api.core.ids import NIL_UUID
from saas_api.usage.ranges import DateRange
from saas_api.usage.rollups import LIVE_USAGE_SQL


@dataclass(frozen=True)
class AcceptedCalls:
    """Accepted calls of one day, meter, source and key.

    segment: number of `boundaries` at or before their hour; 0 in test mode
    quantity: in the meter's unit, less reversals
    """

    day: date
    meter: str
    source: str
    api_key_id: UUID | None
    segment: int
    quantity: Decimal
    requests: int


def accepted_calls(
    session: Session, organization_id: UUID, days: DateRange, boundaries: Sequence[datetime]
) -> Sequence[AcceptedCalls]:
    """Billable calls of hours that begin within the range.

    boundaries: rising instants that separate the calls, such as plan changes; to the hour
    """
    return _rows(
        session,
        f"""WITH live AS ({LIVE_USAGE_SQL})
        SELECT (bucket_at AT TIME ZONE :zone)::date, meter_code, source, nullif(api_key_id, '{NIL_UUID}'),
               width_bucket(bucket_at, CAST(:boundaries AS timestamptz[])), sum(quantity), sum(event_count)::bigint
        FROM live WHERE bucket_at >= :starts_at AND bucket_at < :ends_at
        GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5""",
        organization_id,
        days,
        boundaries,
    )


def accepted_test_calls(session: Session, organization_id: UUID, days: DateRange) -> Sequence[AcceptedCalls]:
    """Calls of test keys, which no bill contains."""
    return _rows(
        session,
        """SELECT (occurred_at AT TIME ZONE :zone)::date, meter_code, coalesce(endpoint, source), api_key_id, 0,
                  sum(quantity), count(*)
           FROM test_usage_events WHERE organization_id = :organization_id
             AND occurred_at >= :starts_at AND occurred_at < :ends_at GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4""",
        organization_id,
        days,
    )


def _rows(
    session: Session, sql: str, organization_id: UUID, days: DateRange, boundaries: Sequence[datetime] | None = None
) -> list[AcceptedCalls]:
    values: dict[str, Any] = {
        "organization_id": organization_id,
        "zone": days.zone.key,
        "starts_at": days.starts_at,
        "ends_at": days.ends_at,
    }
    if boundaries is not None:
        values["boundaries"] = list(boundaries)
    return [AcceptedCalls(*row) for row in session.execute(text(sql), values)]


# The starts are instants, not a time zone: PostgreSQL has time zone data of its own, other than billing periods use.
_LIVE_POINTS = text(f"""WITH live AS ({LIVE_USAGE_SQL})
SELECT width_bucket(bucket_at, CAST(:starts AS timestamptz[])) - 1, meter_code, source,
  nullif(api_key_id, '{NIL_UUID}'), width_bucket(bucket_at, CAST(:boundaries AS timestamptz[])), sum(quantity),
  sum(event_count)::bigint
FROM live WHERE bucket_at >= :starts_at AND bucket_at < :ends_at
  AND (CAST(:meter AS text) IS NULL OR meter_code = :meter)
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5""")
_TEST_POINTS = text("""SELECT width_bucket(occurred_at, CAST(:starts AS timestamptz[])) - 1, meter_code,
  coalesce(endpoint, source), api_key_id, 0, sum(quantity), count(*)
FROM test_usage_events WHERE organization_id = :organization_id
  AND occurred_at >= :starts_at AND occurred_at < :ends_at AND (CAST(:meter AS text) IS NULL OR meter_code = :meter)
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5""")


@dataclass(frozen=True)
class TimeseriesRange:
    """Points and filters of a time series.

    starts: start of every point, rising
    ends_at: end of the last point
    boundaries: rising instants that separate the calls, such as plan changes; to the hour
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
    """Accepted calls of one point, meter, source and key.

    point: index of its start
    segment: number of `boundaries` at or before their hour; 0 in test mode
    """

    point: int
    meter: str
    source: str
    api_key_id: UUID | None
    segment: int
    quantity: Decimal
    requests: int


def timeseries(session: Session, organization_id: UUID, span: TimeseriesRange) -> list[TimeseriesPoint]:
    """Calls of hours that begin within the span."""
    values = {
        "organization_id": organization_id,
        "starts": list(span.starts),
        "boundaries": list(span.boundaries),
        "starts_at": span.starts[0],
        "ends_at": span.ends_at,
        "meter": span.meter,
    }
    return [
        TimeseriesPoint(*row)
        for row in session.execute(_LIVE_POINTS if span.mode == KeyMode.LIVE else _TEST_POINTS, values)
    ]
