"""Accepted calls of a range, by local day, meter, source and API key; live mode from usage, test mode from messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.usage.queries.live import LIVE, NO_KEY
from saas_api.usage.rules import Days


@dataclass(frozen=True)
class Accepted:
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


def accepted(session: Session, organization_id: UUID, days: Days, cuts: Sequence[datetime]) -> Sequence[Accepted]:
    """Billable calls whose hour begins within the range.

    cuts: rising instants that calls are told apart by, such as changes of the plan; to the hour
    """
    return _rows(
        session,
        f"""WITH live AS ({LIVE})
        SELECT (bucket_at AT TIME ZONE :zone)::date, meter_code, source, nullif(api_key_id, '{NO_KEY}'),
               width_bucket(bucket_at, CAST(:cuts AS timestamptz[])), sum(quantity), sum(event_count)::bigint
        FROM live WHERE bucket_at >= :starts_at AND bucket_at < :ends_at
        GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5""",
        organization_id,
        days,
        cuts,
    )


def accepted_tests(session: Session, organization_id: UUID, days: Days) -> Sequence[Accepted]:
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
    session: Session, sql: str, organization_id: UUID, days: Days, cuts: Sequence[datetime] | None = None
) -> list[Accepted]:
    values: dict[str, Any] = {
        "organization_id": organization_id,
        "zone": days.zone.key,
        "starts_at": days.starts_at,
        "ends_at": days.ends_at,
    }
    if cuts is not None:
        values["cuts"] = list(cuts)
    return [Accepted(*row) for row in session.execute(text(sql), values)]
