"""Reads of the usage page: which days a range means, calls over time by meter, the rate limit and how near one came."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing.queries import catalogue
from saas_api.core import clock
from saas_api.core.errors import Invalid
from saas_api.usage.queries import timeseries
from saas_api.usage.rules import BadRange, Days, bounds, first_instant, read_days

_HOUR, _DAYS = timedelta(hours=1), {"7d": 7, "30d": 30}
_EARLIEST = date(2, 1, 1)


@dataclass(frozen=True)
class Hours(Days):
    """Whole local hours, on the days that they touch."""

    begins: datetime
    ends: datetime

    @property
    def starts_at(self) -> datetime:
        """First instant of the first hour."""
        return self.begins

    @property
    def ends_at(self) -> datetime:
        """First instant after the last hour."""
        return self.ends


@dataclass(frozen=True)
class Calls:
    """Accepted calls over time.

    interval: "hour" or "day"
    starts: of each point
    by_meter: calls of each point, by meter
    before: all calls of as long a time before
    """

    interval: str
    starts: list[datetime]
    by_meter: Mapping[str, list[int]]
    before: int


@dataclass(frozen=True)
class Limit:
    """The rate limit of an organization and its busiest minute.

    per_minute: calls a minute of all keys of a mode together
    peak: messages accepted in the busiest minute of the last 24 hours; peak_at: its start
    """

    per_minute: int
    peak: int
    peak_at: datetime | None


@dataclass(frozen=True)
class Meter:
    """A meter as the plan in force sells it.

    included: in its unit, in a period
    """

    name: str
    unit: str
    included: Decimal


def days_of(session: Session, organization_id: UUID, query: Mapping[str, Any], zone: ZoneInfo) -> Days:
    """The time that is meant, in whole local days, or hours for `24h`; thirty days when nothing is said.

    query: `range`, `start_date`, `end_date`; dates count where the range is custom or left out
    raises: Invalid on dates that name no range, and for the period before the first
    """
    now, wanted = clock.now(), query["range"] or "custom"
    today = now.astimezone(zone).date()
    if wanted == "24h":
        ends = now.astimezone(zone).replace(minute=0, second=0, microsecond=0).astimezone(now.tzinfo) + _HOUR
        begins = ends - 24 * _HOUR
        return Hours(begins.astimezone(zone).date(), today, zone, begins, ends)
    if wanted in _DAYS:
        return Days(today - timedelta(days=_DAYS[wanted] - 1), today, zone)
    if wanted != "custom":
        return _period(session, organization_id, now, zone, is_last=wanted == "last_period")
    try:
        return read_days(query["start_date"], query["end_date"], today, zone)
    except BadRange as cause:
        raise Invalid.at(cause.field, cause.reason) from cause


def _period(session: Session, organization_id: UUID, now: datetime, zone: ZoneInfo, *, is_last: bool) -> Days:
    row = session.execute(
        text("""SELECT starts_at, ends_at FROM billing_periods WHERE organization_id = :organization_id
            AND starts_at <= :now ORDER BY starts_at DESC LIMIT 1 OFFSET :skipped"""),
        {"organization_id": organization_id, "now": now, "skipped": int(is_last)},
    ).first()
    if row is None:
        raise Invalid.at("range", "There is no such billing period yet.")
    ends = min(row.ends_at - timedelta(microseconds=1), now)
    return Days(row.starts_at.astimezone(zone).date(), ends.astimezone(zone).date(), zone)


def calls(session: Session, organization_id: UUID, days: Days, mode: str) -> Calls:
    """Accepted calls by the hour for at most two days, else by the day; the empty ones too."""
    length = (days.last - days.first).days + 1
    interval = "hour" if length <= 2 else "day"
    starts = bounds(days, interval)
    if isinstance(days, Hours):
        earlier = days.begins - (days.ends - days.begins)
    else:
        earlier = first_instant(max(days.first - timedelta(days=length), _EARLIEST), days.zone)
    found: dict[str, list[int]] = {}
    before = 0
    span = timeseries.Span([earlier, *starts], days.ends_at, [], None, mode)
    for row in timeseries.counted(session, organization_id, span):
        if row.point == 0:
            before += row.requests
        else:
            found.setdefault(row.meter, [0] * len(starts))[row.point - 1] += row.requests
    return Calls(interval, starts, found, before)


_LIMIT = text("""
SELECT e.value, (SELECT rate_limit_per_minute FROM organization_limits
    WHERE organization_id = :organization_id AND (expires_at IS NULL OR expires_at > :at)) AS exception,
  coalesce(m.calls, 0) AS peak, m.at
FROM subscription_segments s JOIN entitlements e ON e.plan_version_id = s.plan_version_id AND e.feature = :feature
LEFT JOIN LATERAL (SELECT date_trunc('minute', accepted_at) AS at, count(*) AS calls FROM messages
  WHERE organization_id = :organization_id AND mode = :mode AND accepted_at > :since AND accepted_at <= :at
  GROUP BY 1 ORDER BY 2 DESC, 1 DESC LIMIT 1) m ON true
WHERE s.organization_id = :organization_id ORDER BY s.starts_at <= :at DESC, s.seq DESC LIMIT 1""")


def limit(session: Session, organization_id: UUID, mode: str, at: datetime) -> Limit:
    """The rate limit in force, and the busiest minute of the 24 hours before."""
    values = {"organization_id": organization_id, "mode": mode, "at": at, "since": at - 24 * _HOUR}
    row = session.execute(_LIMIT, {**values, "feature": catalogue.RATE_LIMIT}).one()
    return Limit(row.exception or catalogue.rate_limit(row.value), row.peak, row.at)


def meters(session: Session, organization_id: UUID, at: datetime) -> dict[str, Meter]:
    """Every meter by code, and what the plan in force includes of it."""
    rows = session.execute(
        text("""SELECT m.code, m.name, m.unit, coalesce(p.included_quantity, 0) FROM meters m
          LEFT JOIN prices p ON p.meter_code = m.code AND p.plan_version_id = (
            SELECT plan_version_id FROM subscription_segments WHERE organization_id = :organization_id
            ORDER BY starts_at <= :at DESC, seq DESC LIMIT 1)
          ORDER BY m.code"""),
        {"organization_id": organization_id, "at": at},
    )
    return {code: Meter(*rest) for code, *rest in rows}
