"""Which months of the usage ledger may be archived: nothing that they are needed for can still happen."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import text

from saas_api.core import clock
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.settings import setting
from saas_api.usage.rollups import IS_ROLLED

# Periods of an ended subscription stay open without usage, and bill nothing.
_OBSTACLES = text(f"""
WITH periods AS (
  SELECT p.organization_id, p.id, p.state, p.ends_at FROM billing_periods p
  WHERE p.month = :month AND (
    NOT EXISTS (SELECT FROM subscriptions s WHERE s.organization_id = p.organization_id AND s.ended_at <= p.starts_at)
    OR EXISTS (SELECT FROM usage_events e WHERE e.organization_id = p.organization_id AND e.billing_period_id = p.id
      AND e.month = :month)))
SELECT (SELECT max(ends_at) FROM periods) AS last_end,
  (SELECT count(*) FROM periods WHERE state <> 'invoiced') AS open_periods,
  (SELECT count(*) FROM periods p JOIN invoices i ON i.organization_id = p.organization_id AND
    i.billing_period_id = p.id WHERE i.state IN ('draft', 'open')) AS open_invoices,
  (SELECT count(DISTINCT paying.id) FROM periods p
    JOIN usage_events e ON e.organization_id = p.organization_id AND e.late_for_period_id = p.id
    JOIN billing_periods paying ON paying.organization_id = e.organization_id AND paying.id = e.billing_period_id
    WHERE paying.state <> 'invoiced') AS paying_periods,
  (SELECT count(*) FROM usage_events e CROSS JOIN usage_watermark w
    WHERE e.month = :month AND NOT ({IS_ROLLED})) AS not_rolled""")


def find_obstacles(session: SystemSession, month: date, at: datetime) -> list[str]:
    """Why the usage of a month cannot be archived, a sentence each; none when it can.

    month: its first day
    """
    found: Any = session.execute(_OBSTACLES, {"month": month}).one()
    obstacles = []
    if found.open_periods:
        obstacles.append(f"{found.open_periods} billing periods are not invoiced.")
    if found.open_invoices:
        obstacles.append(f"{found.open_invoices} invoices are drafts or not paid.")
    if found.paying_periods:
        obstacles.append(f"{found.paying_periods} billing periods that pay for late usage of it are not invoiced.")
    if found.not_rolled:
        obstacles.append(f"{found.not_rolled} events are not in the rollups yet.")
    days = setting("LATE_USAGE_DAYS")
    if found.last_end and (at - found.last_end).days < days:
        ended = clock.format_rfc3339(found.last_end)
        obstacles.append(f"Late usage is accepted for {days} days (LATE_USAGE_DAYS) after its last period, {ended}.")
    return obstacles
