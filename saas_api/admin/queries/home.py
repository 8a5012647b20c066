"""The platform at a glance: who uses it, what it earns, and what waits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

DAYS = 30
_FIGURES = sa.text("""
SELECT
  (SELECT count(*) FROM organizations WHERE status <> 'closed') AS organizations,
  (SELECT count(*) FROM organizations WHERE status = 'suspended') AS suspended,
  (SELECT count(DISTINCT organization_id) FROM usage_rollups WHERE bucket_at >= :since AND quantity > 0) AS active,
  (SELECT count(*) FROM messages WHERE status IN ('queued', 'sending')) AS waiting_messages,
  (SELECT min(next_at) FROM messages WHERE status IN ('queued', 'sending')) AS oldest_message,
  (SELECT count(*) FROM webhook_deliveries WHERE status IN ('queued', 'sending')) AS waiting_deliveries,
  (SELECT min(next_at) FROM webhook_deliveries WHERE status IN ('queued', 'sending')) AS oldest_delivery,
  (SELECT count(*) FROM webhook_endpoints WHERE deleted_at IS NULL
     AND (consecutive_failures > 0 AND status = 'enabled' OR status IN ('disabled_failing', 'disabled_gone')))
   AS failing_endpoints,
  (SELECT count(*) FROM webhook_endpoints WHERE deleted_at IS NULL AND status = 'enabled') AS enabled_endpoints,
  (SELECT count(*) FROM billing_profiles WHERE parked_at IS NOT NULL) AS parked,
  (SELECT count(*) FROM provider_events WHERE state = 'quarantined') AS quarantined""")
_MONEY = sa.text("""
SELECT currency, sum(revenue)::bigint AS revenue_minor, sum(unpaid)::bigint AS unpaid_minor,
  sum(overdue)::bigint AS overdue_minor, sum(monthly)::bigint AS monthly_minor FROM (
  SELECT currency, CASE WHEN state <> 'void' AND finalized_at >= :since THEN total_minor - credited_minor ELSE 0 END
      AS revenue,
    CASE WHEN state = 'open' THEN due_minor ELSE 0 END AS unpaid,
    CASE WHEN state = 'open' AND due_at < :at THEN due_minor ELSE 0 END AS overdue, 0 AS monthly
  FROM invoices WHERE state <> 'draft'
  UNION ALL
  SELECT v.currency, 0, 0, 0, v.base_amount_minor FROM subscription_segments g
    JOIN plan_versions v ON v.id = g.plan_version_id
    JOIN organizations o ON o.id = g.organization_id AND o.status <> 'closed'
   WHERE g.starts_at <= :at AND (g.ends_at IS NULL OR g.ends_at > :at)) found
GROUP BY currency ORDER BY currency""")
_USED = sa.text("""
SELECT (bucket_at AT TIME ZONE 'UTC')::date AS day, meter_code, sum(event_count)::bigint AS requests
FROM usage_rollups WHERE bucket_at >= :since GROUP BY 1, 2""")
_EARNED = sa.text("""
SELECT (finalized_at AT TIME ZONE 'UTC')::date AS day, currency, sum(total_minor - credited_minor)::bigint AS minor
FROM invoices WHERE state NOT IN ('draft', 'void') AND finalized_at >= :since GROUP BY 1, 2""")


@dataclass(frozen=True)
class Overview:
    """The platform now, and by day in UTC.

    money: one row a currency, in minor units: revenue_minor (finalized in thirty days,
        less credit notes), unpaid_minor, overdue_minor, monthly_minor (the bases of the plans in force)
    used: accepted requests by meter and day
    earned: finalized totals by currency and day, in minor units
    """

    figures: Any
    money: Sequence[Any]
    days: Sequence[date]
    used: Mapping[str, Mapping[date, int]]
    earned: Mapping[str, Mapping[date, int]]

    @property
    def requests(self) -> int:
        """Accepted in thirty days."""
        return sum(count for by_day in self.used.values() for count in by_day.values())

    @property
    def oldest_due(self) -> datetime | None:
        """Since when the oldest thing that waits has been due."""
        due = [self.figures.oldest_message, self.figures.oldest_delivery]
        return min((at for at in due if at), default=None)


def overview(session: Session, at: datetime) -> Overview:
    """The platform at an instant, and in the thirty days that end with it."""
    today = at.date()
    days = [today - timedelta(days=back) for back in range(DAYS - 1, -1, -1)]
    since = at.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS - 1)
    values = {"at": at, "since": since}
    return Overview(
        session.execute(_FIGURES, values).one(),
        session.execute(_MONEY, values).all(),
        days,
        _by_day(session.execute(_USED, values).all()),
        _by_day(session.execute(_EARNED, values).all()),
    )


def _by_day(rows: Sequence[Any]) -> dict[str, dict[date, int]]:
    found: dict[str, dict[date, int]] = {}
    for day, name, amount in rows:
        found.setdefault(name, {})[day] = int(amount)
    return found
