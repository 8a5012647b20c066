"""Accepted calls over time, by meter, source and key; live mode from usage, test mode from messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.usage.queries.live import LIVE, NO_KEY

# Bounds come in as instants, never as a zone: PostgreSQL's zone data are not the ones that periods are made with.
_LIVE = text(f"""WITH live AS ({LIVE})
SELECT width_bucket(bucket_at, CAST(:bounds AS timestamptz[])) - 1, meter_code, source,
  nullif(api_key_id, '{NO_KEY}'), width_bucket(bucket_at, CAST(:cuts AS timestamptz[])), sum(quantity),
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
class Span:
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
class Counted:
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


def counted(session: Session, organization_id: UUID, span: Span) -> list[Counted]:
    """Calls whose hour begins within the span, rollups and tail alike."""
    values = {
        "organization_id": organization_id,
        "bounds": list(span.bounds),
        "cuts": list(span.cuts),
        "starts_at": span.bounds[0],
        "ends_at": span.ends_at,
        "meter": span.meter,
    }
    return [Counted(*row) for row in session.execute(_LIVE if span.mode == "live" else _TEST, values)]
