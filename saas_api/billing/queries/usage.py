"""What an organization used and what it costs: one report for the API and the dashboard.

`total_cost` is what the bill says, after included quantities; every `cost` in a breakdown is units times list price.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing.queries import catalogue
from saas_api.billing.rules import rating
from saas_api.core.money import amount_text
from saas_api.usage.queries import breakdown, requests, timeseries
from saas_api.usage.queries.live import LIVE
from saas_api.usage.rules import Days, bounds, success_rate

ENDPOINTS = {"messages.send": ("POST", "/api/v1/messages/send")}


@dataclass
class Tally:
    """Calls of one day, endpoint or key.

    cost: in major units, at list price
    """

    success_count: int = 0
    failed_count: int = 0
    limited_count: int = 0
    cost: Decimal = Decimal(0)

    @property
    def cost_text(self) -> str:
        """The cost as the wire shows it."""
        return amount_text(self.cost)

    @property
    def error_count(self) -> int:
        """Refused calls of both kinds."""
        return self.failed_count + self.limited_count

    @property
    def requests(self) -> int:
        """All calls."""
        return self.success_count + self.error_count

    @property
    def success_rate(self) -> Decimal:
        """In percent; a call over its rate limit is no failure."""
        return success_rate(self.success_count, self.failed_count)


@dataclass
class MeterUse:
    """What one meter counted in a range; quantities in its unit."""

    meter: str
    unit: str
    quantity: Decimal = Decimal(0)
    included: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)

    @property
    def overage(self) -> Decimal:
        """What included quantities do not cover."""
        return self.quantity - self.included


@dataclass
class Report:
    """The usage of a range.

    total_cost_minor: what the range adds to the bills, without base amounts
    by_endpoint: by method and route
    """

    days: Days
    currency: str
    total: Tally = field(default_factory=Tally)
    total_cost_minor: int = 0
    by_meter: list[MeterUse] = field(default_factory=list)
    by_day: dict[date, Tally] = field(default_factory=dict)
    by_endpoint: dict[tuple[str, str], Tally] = field(default_factory=dict)
    by_api_key: dict[UUID | None, Tally] = field(default_factory=dict)
    key_names: Mapping[UUID, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Segment:
    starts_at: datetime
    version: str


def usage_report(
    session: Session, organization_id: UUID, days: Days, mode: str = "live", *, is_billed: bool = True
) -> Report:
    """Everything about the usage of a range; test traffic costs nothing.

    is_billed: work out `total_cost_minor` and what is included too
    """
    segments = _segments(session, organization_id)
    prices = catalogue.prices(session, {segment.version for segment in segments})
    report = Report(days, catalogue.currency(session, segments[-1].version))
    report.by_day = {day: Tally() for day in days}
    meters = {code: MeterUse(code, unit) for code, unit in sorted(catalogue.units(session).items())}
    endpoints: defaultdict[tuple[str, str], Tally] = defaultdict(Tally)
    keys: defaultdict[UUID | None, Tally] = defaultdict(Tally)
    if mode == "live":
        rows = breakdown.accepted(session, organization_id, days, [segment.starts_at for segment in segments])
    else:
        rows = breakdown.accepted_tests(session, organization_id, days)
    for row in rows:
        price = prices.get((segments[max(row.stretch - 1, 0)].version, row.meter))
        cost = rating.list_cost(price, row.quantity) if mode == "live" and price else Decimal(0)
        meters[row.meter].quantity += row.quantity
        meters[row.meter].cost += cost
        endpoint = endpoints[ENDPOINTS.get(row.source, ("", row.source))]
        for tally in (report.total, report.by_day[row.day], endpoint, keys[row.api_key_id]):
            tally.success_count += row.requests
            tally.cost += cost
    for refused in requests.refused(session, organization_id, days, mode):
        endpoint = endpoints[refused.method, refused.route]
        for tally in (report.total, report.by_day[refused.day], endpoint, keys[refused.api_key_id]):
            if refused.outcome == "failed":
                tally.failed_count += refused.requests
            else:
                tally.limited_count += refused.requests
    if mode == "live" and is_billed:
        _add_bill(session, organization_id, report, prices, meters)
    report.by_meter = [meter for meter in meters.values() if meter.quantity]
    report.by_endpoint, report.by_api_key = dict(endpoints), dict(keys)
    report.key_names = key_names(session, organization_id)
    return report


def _segments(session: Session, organization_id: UUID) -> list[_Segment]:
    rows = session.execute(
        text("""SELECT starts_at, plan_version_id FROM subscription_segments
          WHERE organization_id = :organization_id ORDER BY starts_at"""),
        {"organization_id": organization_id},
    )
    return [_Segment(*row) for row in rows]


def key_names(session: Session, organization_id: UUID) -> dict[UUID, str]:
    """Names of the organization's keys, revoked ones included."""
    rows = session.execute(
        text("SELECT id, name FROM api_keys WHERE organization_id = :organization_id"),
        {"organization_id": organization_id},
    )
    return dict(rows.all())


_BEFORE_AND_THROUGH = text(f"""
WITH live AS ({LIVE}),
periods AS (
  SELECT p.organization_id, p.id, p.starts_at,
    EXISTS (SELECT FROM subscription_segments s WHERE s.organization_id = :organization_id
              AND s.starts_at > p.starts_at AND s.starts_at < p.ends_at)
    OR EXISTS (SELECT FROM usage_events e WHERE e.organization_id = :organization_id AND e.late_for_period_id = p.id)
      AS is_mixed
  FROM billing_periods p
  WHERE p.organization_id = :organization_id AND p.ends_at > :starts_at AND p.starts_at < :ends_at),
facts AS (
  SELECT p.id AS period_id, l.meter_code, l.quantity, greatest(l.bucket_at, p.starts_at) AS at
  FROM periods p JOIN live l ON l.billing_period_id = p.id
  WHERE NOT p.is_mixed AND NOT l.is_late AND l.bucket_at < :ends_at
    AND l.bucket_at >= (SELECT min(starts_at) - interval '1 hour' FROM periods)
  UNION ALL
  SELECT p.id, e.meter_code, e.quantity, e.occurred_at
  FROM periods p JOIN usage_events e ON e.organization_id = p.organization_id AND e.billing_period_id = p.id
  WHERE p.is_mixed AND e.late_for_period_id IS NULL
  UNION ALL
  SELECT p.id, e.meter_code, e.quantity, e.occurred_at
  FROM periods p JOIN usage_events e ON e.organization_id = p.organization_id AND e.late_for_period_id = p.id)
SELECT s.plan_version_id, f.meter_code, coalesce(sum(f.quantity) FILTER (WHERE f.at < :starts_at), 0),
       coalesce(sum(f.quantity) FILTER (WHERE f.at < :ends_at), 0)
FROM facts f JOIN subscription_segments s ON s.organization_id = :organization_id AND s.starts_at <= f.at
  AND (s.ends_at IS NULL OR s.ends_at > f.at)
GROUP BY f.period_id, 1, 2""")


def _add_bill(
    session: Session,
    organization_id: UUID,
    report: Report,
    prices: Mapping[tuple[str, str], Any],
    meters: Mapping[str, MeterUse],
) -> None:
    """Per period, plan version and meter: the charge up to the range's end less the charge before its start.

    Usage counts in the period it happened in, so ranges add up, late usage included. To the hour rollups are exact;
    a period with several plan versions, or late usage, is read from the ledger.
    """
    values = {
        "organization_id": organization_id,
        "starts_at": report.days.starts_at,
        "ends_at": report.days.ends_at,
    }
    for version, meter, before, through in session.execute(_BEFORE_AND_THROUGH, values):
        price = prices.get((version, meter))
        if price is None:
            continue
        report.total_cost_minor += rating.charge(price, through) - rating.charge(price, before)
        meters[meter].included += min(through, price.included_quantity) - min(before, price.included_quantity)


@dataclass
class Point:
    """What was accepted in one hour or day.

    quantity: in the meter's unit; of several meters at once it means nothing
    cost: in major units, at list price
    """

    at: datetime
    requests: int = 0
    quantity: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)


def usage_series(
    session: Session, organization_id: UUID, days: Days, query: Mapping[str, Any]
) -> dict[str | UUID | None, list[Point]]:
    """Accepted calls over time, a point for every hour or day, by meter, key or source; empty points included.

    query: interval, meter, mode, group_by
    returns: under None when nothing was asked to be told apart, and for calls without a key
    raises: BadRange for too many points
    """
    segments = _segments(session, organization_id)
    prices = catalogue.prices(session, {segment.version for segment in segments})
    starts, mode, group_by = bounds(days, query["interval"]), query["mode"], query["group_by"]
    cuts = [segment.starts_at for segment in segments]
    span = timeseries.Span(starts, days.ends_at, cuts, query["meter"], mode)
    found: dict[str | UUID | None, list[Point]] = {} if group_by else {None: [Point(at) for at in starts]}
    for row in timeseries.counted(session, organization_id, span):
        group = {"meter": row.meter, "key": row.api_key_id, "source": row.source}.get(group_by)
        if group not in found:
            found[group] = [Point(at) for at in starts]
        point = found[group][row.point]
        point.requests += row.requests
        point.quantity += row.quantity
        price = prices.get((segments[max(row.stretch - 1, 0)].version, row.meter))
        point.cost += rating.list_cost(price, row.quantity) if mode == "live" and price else 0
    return found


def total(found: Mapping[Any, list[Point]], days: Days, interval: str) -> list[Point]:
    """All series together, point by point."""
    summed = [Point(at) for at in bounds(days, interval)]
    for points in found.values():
        for whole, part in zip(summed, points, strict=True):
            whole.requests += part.requests
            whole.quantity += part.quantity
            whole.cost += part.cost
    return summed


def report_currency(session: Session, organization_id: UUID) -> str:
    """The currency of what an organization uses."""
    return catalogue.currency(session, _segments(session, organization_id)[-1].version)


def usage_rows(session: Session, organization_id: UUID, days: Days, mode: str) -> Iterator[Sequence[Any]]:
    """The table behind a report: accepted calls by day, endpoint, key and meter, then refused ones.

    returns: date, method, endpoint, api_key_id, meter, quantity, outcome, requests, cost in major units at list price
    """
    segments = _segments(session, organization_id)
    prices = catalogue.prices(session, {segment.version for segment in segments})
    if mode == "live":
        rows = breakdown.accepted(session, organization_id, days, [segment.starts_at for segment in segments])
    else:
        rows = breakdown.accepted_tests(session, organization_id, days)
    for row in rows:
        price = prices.get((segments[max(row.stretch - 1, 0)].version, row.meter))
        cost = rating.list_cost(price, row.quantity) if mode == "live" and price else Decimal(0)
        endpoint = ENDPOINTS.get(row.source, ("", row.source))
        yield row.day, *endpoint, row.api_key_id, row.meter, row.quantity, "accepted", row.requests, cost
    for refused in requests.refused(session, organization_id, days, mode):
        calls = refused.requests
        yield refused.day, refused.method, refused.route, refused.api_key_id, None, None, refused.outcome, calls, None
