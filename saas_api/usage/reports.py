"""Accepted calls by day, meter, source and key; time series."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.usage.ranges import DateRange
from saas_api.usage.rollups import LIVE_USAGE_SQL, NIL_UUID


@dataclass(frozen=True)
class AcceptedCalls:
    """Accepted calls of one day, meter, source and key.

    stretch: how many of the given instants lie at or before them
    quantity: in the meter's unit, reversals taken off
    """

    day: date
    meter: str
    source: str
    api_key_id: UUID | None
    stretch: int
    quantity: Decimal
    requests: int


def accepted_calls(
    session: Session, organization_id: UUID, days: DateRange, cuts: Sequence[datetime]
) -> Sequence[AcceptedCalls]:
    """Billable calls whose hour begins within the range.

    cuts: rising instants that calls are told apart by, such as changes of the plan; to the hour
    """
    return _rows(
        session,
        f"""WITH live AS ({LIVE_USAGE_SQL})
        SELECT (bucket_at AT TIME ZONE :zone)::date, meter_code, source, nullif(api_key_id, '{NIL_UUID}'),
               width_bucket(bucket_at, CAST(:cuts AS timestamptz[])), sum(quantity), sum(event_count)::bigint
        FROM live WHERE bucket_at >= :starts_at AND bucket_at < :ends_at
        GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5""",
        organization_id,
        days,
        cuts,
    )


def accepted_test_calls(session: Session, organization_id: UUID, days: DateRange) -> Sequence[AcceptedCalls]:
    """Calls in test mode, which meter nothing and stand in `messages` alone."""
    return _rows(
        session,
        """SELECT (accepted_at AT TIME ZONE :zone)::date, channel, 'messages.send', api_key_id, 0,
                  sum(CASE channel WHEN 'sms' THEN segments ELSE 1 END)::numeric, count(*)
           FROM messages WHERE organization_id = :organization_id AND mode = 'test'
             AND accepted_at >= :starts_at AND accepted_at < :ends_at GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4""",
        organization_id,
        days,
    )


def _rows(
    session: Session, sql: str, organization_id: UUID, days: DateRange, cuts: Sequence[datetime] | None = None
) -> list[AcceptedCalls]:
    values: dict[str, Any] = {
        "organization_id": organization_id,
        "zone": days.zone.key,
        "starts_at": days.starts_at,
        "ends_at": days.ends_at,
    }
    if cuts is not None:
        values["cuts"] = list(cuts)
    return [AcceptedCalls(*row) for row in session.execute(text(sql), values)]


# Bounds come in as instants, never as a zone: PostgreSQL's zone data are not the ones that periods are made with.
_LIVE = text(f"""WITH live AS ({LIVE_USAGE_SQL})
SELECT width_bucket(bucket_at, CAST(:bounds AS timestamptz[])) - 1, meter_code, source,
  nullif(api_key_id, '{NIL_UUID}'), width_bucket(bucket_at, CAST(:cuts AS timestamptz[])), sum(quantity),
  sum(event_count)::bigint
FROM live WHERE bucket_at >= :starts_at AND bucket_at < :ends_at
  AND (CAST(:meter AS text) IS NULL OR meter_code = :meter)
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5""")
_TEST = text("""SELECT width_bucket(accepted_at, CAST(:bounds AS timestamptz[])) - 1, channel, 'messages.send',
  api_key_id, 0, sum(CASE channel WHEN 'sms' THEN segments ELSE 1 END)::numeric, count(*)
FROM messages WHERE organization_id = :organization_id AND mode = 'test'
  AND accepted_at >= :starts_at AND accepted_at < :ends_at AND (CAST(:meter AS text) IS NULL OR channel = :meter)
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5""")


@dataclass(frozen=True)
class TimeseriesRange:
    """What is asked for.

    bounds: start of every point, rising
    cuts: rising instants that calls are told apart by, such as changes of the plan; to the hour
    """

    bounds: Sequence[datetime]
    ends_at: datetime
    cuts: Sequence[datetime]
    meter: str | None
    mode: str


@dataclass(frozen=True)
class TimeseriesPoint:
    """Accepted calls of one point, meter, source and key.

    point: index of its bound
    stretch: how many of the cuts lie at or before them
    """

    point: int
    meter: str
    source: str
    api_key_id: UUID | None
    stretch: int
    quantity: Decimal
    requests: int


def timeseries(session: Session, organization_id: UUID, span: TimeseriesRange) -> list[TimeseriesPoint]:
    """Calls whose hour begins within the span, rollups and tail alike."""
    values = {
        "organization_id": organization_id,
        "bounds": list(span.bounds),
        "cuts": list(span.cuts),
        "starts_at": span.bounds[0],
        "ends_at": span.ends_at,
        "meter": span.meter,
    }
    return [TimeseriesPoint(*row) for row in session.execute(_LIVE if span.mode == "live" else _TEST, values)]
