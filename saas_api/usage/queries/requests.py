"""Refused calls of a range; statistics that a killed process may leave up to a second short."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.usage.rules import Days


@dataclass(frozen=True)
class Refused:
    """Refused calls of one day, route and key.

    outcome: "failed" or "rate_limited"
    """

    day: date
    method: str
    route: str
    api_key_id: UUID
    outcome: str
    requests: int


def refused(session: Session, organization_id: UUID, days: Days, mode: str) -> Sequence[Refused]:
    """Refused calls under keys of one mode whose hour begins within the range."""
    rows = session.execute(
        text("""SELECT (bucket_at AT TIME ZONE :zone)::date, method, route, api_key_id, outcome, sum(requests)::bigint
          FROM request_counts WHERE organization_id = :organization_id AND mode = :mode
            AND bucket_at >= :starts_at AND bucket_at < :ends_at GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"""),
        {
            "organization_id": organization_id,
            "mode": mode,
            "zone": days.zone.key,
            "starts_at": days.starts_at,
            "ends_at": days.ends_at,
        },
    )
    return [Refused(*row) for row in rows]
