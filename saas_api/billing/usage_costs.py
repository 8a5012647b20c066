"""Usage with its cost, for API, dashboard and CSV."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing import plans
from saas_api.billing.rating import charges
from saas_api.core import money
from saas_api.usage import ranges, refused_requests, reports
from saas_api.usage.ranges import DateRange
from saas_api.usage.reports import TimeseriesRange
from saas_api.usage.rollups import LIVE_USAGE_SQL

ENDPOINT_BY_SOURCE = {"messages.send": ("POST", "/api/v1/messages/send")}


@dataclass
class CallTotals:
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
        return money.format_exact_amount(self.cost)

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
        return ranges.success_rate(self.success_count, self.failed_count)


@dataclass
class MeterUsage:
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
class UsageReport:
    """The usage of a range.

    total_cost_minor: what the range adds to the bills, without base amounts
    by_endpoint: by method and route
    """

    days: DateRange
    currency: str
    total: CallTotals = field(default_factory=CallTotals)
    total_cost_minor: int = 0
    by_meter: list[MeterUsage] = field(default_factory=list)
    by_day: dict[date, CallTotals] = field(default_factory=dict)
    by_endpoint: dict[tuple[str, str], CallTotals] = field(default_factory=dict)
    by_api_key: dict[UUID | None, CallTotals] = field(default_factory=dict)
    key_names: Mapping[UUID, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _RatedSegment:
    starts_at: datetime
    version: str


def usage_report(
    session: Session, organization_id: UUID, days: DateRange, mode: str = "live", *, is_billed: bool = True
) -> UsageReport:
    """Everything about the usage of a range; test traffic costs nothing.

    is_billed: work out `total_cost_minor` and what is included too
    """
    segments = _segments(session, organization_id)
    prices = plans.get_prices(session, {segment.version for segment in segments})
    report = UsageReport(days, plans.version_currency(session, segments[-1].version))
    report.by_day = {day: CallTotals() for day in days}
    meters = {code: MeterUsage(code, unit) for code, unit in sorted(plans.meter_units(session).items())}
    endpoints: defaultdict[tuple[str, str], CallTotals] = defaultdict(CallTotals)
    keys: defaultdict[UUID | None, CallTotals] = defaultdict(CallTotals)
    if mode == "live":
        rows = reports.accepted_calls(session, organization_id, days, [segment.starts_at for segment in segments])
    else:
        rows = reports.accepted_test_calls(session, organization_id, days)
    for row in rows:
        price = prices.get((segments[max(row.segment - 1, 0)].version, row.meter))
        cost = charges.list_price_cost(price, row.quantity) if mode == "live" and price else Decimal(0)
        meters[row.meter].quantity += row.quantity
        meters[row.meter].cost += cost
        endpoint = endpoints[ENDPOINT_BY_SOURCE.get(row.source, ("", row.source))]
        for tally in (report.total, report.by_day[row.day], endpoint, keys[row.api_key_id]):
            tally.success_count += row.requests
            tally.cost += cost
    for refused in refused_requests.refused_calls(session, organization_id, days, mode):
        endpoint = endpoints[refused.method, refused.route]
        for tally in (report.total, report.by_day[refused.day], endpoint, keys[refused.api_key_id]):
            if refused.outcome == "failed":
                tally.failed_count += refused.requests
            else:
                tally.limited_count += refused.requests
    if mode == "live" and is_billed:
        _add_costs(session, organization_id, report, prices, meters)
    report.by_meter = [meter for meter in meters.values() if meter.quantity]
    report.by_endpoint, report.by_api_key = dict(endpoints), dict(keys)
    report.key_names = get_key_names(session, organization_id)
    return report


def _segments(session: Session, organization_id: UUID) -> list[_RatedSegment]:
    rows = session.execute(
        text("""SELECT starts_at, plan_version_id FROM subscription_segments
          WHERE organization_id = :organization_id ORDER BY starts_at"""),
        {"organization_id": organization_id},
    )
    return [_RatedSegment(*row) for row in rows]


def get_key_names(session: Session, organization_id: UUID) -> dict[UUID, str]:
    """Names of the organization's keys, revoked ones included."""
    rows = session.execute(
        text("SELECT id, name FROM api_keys WHERE organization_id = :organization_id"),
        {"organization_id": organization_id},
    )
    return dict(rows.all())


_BEFORE_AND_THROUGH = text(f"""
WITH live AS ({LIVE_USAGE_SQL}),
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


def _add_costs(
    session: Session,
    organization_id: UUID,
    report: UsageReport,
    prices: Mapping[tuple[str, str], Any],
    meters: Mapping[str, MeterUsage],
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
        report.total_cost_minor += charges.rounded_charge(price, through) - charges.rounded_charge(price, before)
        meters[meter].included += min(through, price.included_quantity) - min(before, price.included_quantity)


@dataclass
class UsagePoint:
    """What was accepted in one hour or day.

    quantity: in the meter's unit; of several meters at once it means nothing
    cost: in major units, at list price
    """

    at: datetime
    requests: int = 0
    quantity: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)


def usage_series(
    session: Session, organization_id: UUID, days: DateRange, query: Mapping[str, Any]
) -> dict[str | UUID | None, list[UsagePoint]]:
    """Accepted calls over time, a point for every hour or day, by meter, key or source; empty points included.

    query: interval, meter, mode, group_by
    returns: under None when nothing was asked to be told apart, and for calls without a key
    raises: BadRange for too many points
    """
    segments = _segments(session, organization_id)
    prices = plans.get_prices(session, {segment.version for segment in segments})
    starts, mode, group_by = ranges.bucket_starts(days, query["interval"]), query["mode"], query["group_by"]
    cuts = [segment.starts_at for segment in segments]
    span = TimeseriesRange(starts, days.ends_at, cuts, query["meter"], mode)
    found: dict[str | UUID | None, list[UsagePoint]] = {} if group_by else {None: [UsagePoint(at) for at in starts]}
    for row in reports.timeseries(session, organization_id, span):
        group = {"meter": row.meter, "key": row.api_key_id, "source": row.source}.get(group_by)
        if group not in found:
            found[group] = [UsagePoint(at) for at in starts]
        point = found[group][row.point]
        point.requests += row.requests
        point.quantity += row.quantity
        price = prices.get((segments[max(row.segment - 1, 0)].version, row.meter))
        point.cost += charges.list_price_cost(price, row.quantity) if mode == "live" and price else 0
    return found


def sum_series(found: Mapping[Any, list[UsagePoint]], days: DateRange, interval: str) -> list[UsagePoint]:
    """All series together, point by point."""
    summed = [UsagePoint(at) for at in ranges.bucket_starts(days, interval)]
    for points in found.values():
        for whole, part in zip(summed, points, strict=True):
            whole.requests += part.requests
            whole.quantity += part.quantity
            whole.cost += part.cost
    return summed


def report_currency(session: Session, organization_id: UUID) -> str:
    """The currency of what an organization uses."""
    return plans.version_currency(session, _segments(session, organization_id)[-1].version)


def usage_rows(session: Session, organization_id: UUID, days: DateRange, mode: str) -> Iterator[Sequence[Any]]:
    """The table behind a report: accepted calls by day, endpoint, key and meter, then refused ones.

    returns: date, method, endpoint, api_key_id, meter, quantity, outcome, requests, cost in major units at list price
    """
    segments = _segments(session, organization_id)
    prices = plans.get_prices(session, {segment.version for segment in segments})
    if mode == "live":
        rows = reports.accepted_calls(session, organization_id, days, [segment.starts_at for segment in segments])
    else:
        rows = reports.accepted_test_calls(session, organization_id, days)
    for row in rows:
        price = prices.get((segments[max(row.segment - 1, 0)].version, row.meter))
        cost = charges.list_price_cost(price, row.quantity) if mode == "live" and price else Decimal(0)
        endpoint = ENDPOINT_BY_SOURCE.get(row.source, ("", row.source))
        yield row.day, *endpoint, row.api_key_id, row.meter, row.quantity, "accepted", row.requests, cost
    for refused in refused_requests.refused_calls(session, organization_id, days, mode):
        calls = refused.requests
        yield refused.day, refused.method, refused.route, refused.api_key_id, None, None, refused.outcome, calls, None
