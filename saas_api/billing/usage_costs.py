"""Usage with its cost: reports, time series and the rows of a CSV, for the API and the dashboard."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing import pauses, plans, subscriptions
from saas_api.billing.rating import bill, charges, plan_changes
from saas_api.billing.rating.bill import RatedPlanVersion, UsageQuantity
from saas_api.billing.rating.plan_changes import PlanSegment
from saas_api.core import money
from saas_api.usage import ledger, meters, quantities, range_quantities, ranges, reports, request_counts, sources
from saas_api.usage.meter_file import MeterContent
from saas_api.usage.range_quantities import RangeQuantity
from saas_api.usage.ranges import DateRange
from saas_api.usage.reports import AcceptedCalls, TimeseriesPoint, TimeseriesRange


@dataclass
class CallTotals:
    """Number and cost of calls.

    success_count: accepted calls
    failed_count, limited_count: refused calls, by an error or by a rate limit
    cost: in major units, at list price
    """

    success_count: int = 0
    failed_count: int = 0
    limited_count: int = 0
    cost: Decimal = Decimal(0)

    def format_cost(self, currency: str) -> str:
        """The cost for people, such as "0.0075"."""
        return money.format_exact_amount(self.cost, currency)

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
        """Percentage of accepted calls; rate limited calls are not counted."""
        return ranges.success_rate(self.success_count, self.failed_count)


@dataclass
class MeterUsage:
    """Usage of one meter in a range; quantities in its unit, cost in major units at list price."""

    meter: str
    unit: str
    requests: int = 0
    quantity: Decimal = Decimal(0)
    included: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)

    @property
    def overage(self) -> Decimal:
        """Quantity beyond the included one."""
        return self.quantity - self.included


class EndpointCalls(NamedTuple):
    """Calls of one endpoint."""

    method: str
    endpoint: str
    totals: CallTotals


class KeyCalls(NamedTuple):
    """Calls under one API key."""

    api_key_id: UUID | None
    name: str | None
    totals: CallTotals


@dataclass
class DimensionUsage:
    """Accepted calls of one meter with one value of a dimension; quantity and cost as of `MeterUsage`.

    value: None for calls without the property
    """

    meter: str
    dimension: str
    value: str | None
    requests: int = 0
    quantity: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)


class DayCalls(NamedTuple):
    """Calls of one day."""

    date: date
    totals: CallTotals


@dataclass
class UsageReport:
    """Usage of a range of days.

    mode: "live" or "test"
    total_cost_minor: usage charges of the range, without base amounts
    by_endpoint: by method and route
    by_api_key: by id; None for calls without a key
    accepted_by_meter: accepted calls by day
    archived_before: as of `find_archive`, of the meters that were used
    """

    days: DateRange
    currency: str
    mode: str = "live"
    total: CallTotals = field(default_factory=CallTotals)
    total_cost_minor: int = 0
    by_meter: list[MeterUsage] = field(default_factory=list)
    by_dimension: list[DimensionUsage] = field(default_factory=list)
    by_day: dict[date, CallTotals] = field(default_factory=dict)
    accepted_by_meter: dict[str, Counter[date]] = field(default_factory=dict)
    by_endpoint: dict[tuple[str, str], CallTotals] = field(default_factory=lambda: defaultdict(CallTotals))
    by_api_key: dict[UUID | None, CallTotals] = field(default_factory=lambda: defaultdict(CallTotals))
    key_names: Mapping[UUID, str] = field(default_factory=dict)
    archived_before: datetime | None = None

    def totals_of(self, day: date, endpoint: tuple[str, str], api_key_id: UUID | None) -> tuple[CallTotals, ...]:
        """The totals in which a call counts."""
        return self.total, self.by_day[day], self.by_endpoint[endpoint], self.by_api_key[api_key_id]

    @property
    def endpoints(self) -> list[EndpointCalls]:
        """Calls by endpoint, sorted by method and route."""
        return [EndpointCalls(method, route, totals) for (method, route), totals in sorted(self.by_endpoint.items())]

    @property
    def keys(self) -> list[KeyCalls]:
        """Calls by API key, sorted by its id."""
        by_id = sorted(self.by_api_key.items(), key=lambda item: str(item[0]))
        return [KeyCalls(key_id, self.key_names.get(key_id) if key_id else None, totals) for key_id, totals in by_id]

    @property
    def days_used(self) -> list[DayCalls]:
        """Calls by day, every day of the range."""
        return [DayCalls(day, totals) for day, totals in self.by_day.items()]


def usage_report(
    session: Session,
    organization_id: UUID,
    days: DateRange,
    mode: str = "live",
    *,
    meter: str | None = None,
    is_billed: bool = True,
    by_code: Mapping[str, MeterContent] | None = None,
) -> UsageReport:
    """Usage of a range. Calls in test mode cost nothing.

    mode: "live" or "test"
    meter: of the calls; refused calls have none and are counted without it only
    is_billed: calculate `total_cost_minor` and included quantities, too
    by_code: all meters, where the caller has read them
    """
    pricing, by_code = _get_pricing(session, organization_id), by_code or meters.all_meters(session)
    report = UsageReport(days, pricing.currency, mode, by_day={day: CallTotals() for day in days})
    by_meter = {code: MeterUsage(code, by_code[code].unit) for code in by_code}
    dimensions: dict[tuple[str, str, str | None], DimensionUsage] = {}
    exact_meters: set[str] = set()
    for row, cost in _accepted_with_cost(session, organization_id, days, mode, pricing, meter):
        counted: list[MeterUsage | DimensionUsage] = [by_meter[row.meter]]
        for name in by_code[row.meter].dimensions:
            key = (row.meter, name, row.dimensions.get(name))
            counted.append(dimensions.setdefault(key, DimensionUsage(*key)))
        for usage in counted:
            _add_row(usage, row, cost)
        if row.aggregation != "sum":
            exact_meters.add(row.meter)
        report.accepted_by_meter.setdefault(row.meter, Counter())[row.day] += row.requests
        for totals in report.totals_of(row.day, sources.get_endpoint(row.source), row.api_key_id):
            totals.success_count += row.requests
            totals.cost += cost
    _set_exact_quantities(session, organization_id, report, by_meter, dimensions, exact_meters)
    report.archived_before = find_archive(session, organization_id, days, mode, exact_meters)
    if meter is None:
        _add_refused(session, organization_id, report)
    if mode == "live" and is_billed:
        _add_charges(session, organization_id, report, pricing, by_meter, meter)
    report.by_dimension = [usage for _, usage in sorted(dimensions.items(), key=lambda item: str(item[0]))]
    known = exact_meters if report.archived_before else ()
    report.by_meter = [usage for usage in by_meter.values() if usage.quantity or usage.meter in known]
    report.key_names = get_key_names(session, organization_id)
    return report


def _add_row(usage: MeterUsage | DimensionUsage, row: AcceptedCalls, cost: Decimal) -> None:
    usage.requests += row.requests
    usage.quantity += row.quantity
    usage.cost += cost


def find_archive(
    session: Session, organization_id: UUID, days: DateRange, mode: str, exact_meters: Collection[str]
) -> datetime | None:
    """Up to when the usage of meters that do not add up is missing in a range, because its events are archived.

    Sums are read from rollups, which stay; the other quantities and their charges only from events.
    exact_meters: those that do not add up; none is missing without them
    returns: the end of a billing period; None when nothing is missing
    """
    if not exact_meters or mode != "live":
        return None
    return ledger.archived_before(session, organization_id, days.starts_at, days.ends_at)


def _add_refused(session: Session, organization_id: UUID, report: UsageReport) -> None:
    for refused in request_counts.refused_calls(session, organization_id, report.days, report.mode):
        for totals in report.totals_of(refused.day, (refused.method, refused.route), refused.api_key_id):
            if refused.outcome == "failed":
                totals.failed_count += refused.requests
            else:
                totals.limited_count += refused.requests


def _set_exact_quantities(
    session: Session,
    organization_id: UUID,
    report: UsageReport,
    by_meter: Mapping[str, MeterUsage],
    dimensions: Mapping[tuple[str, str, str | None], DimensionUsage],
    exact_meters: Collection[str],
) -> None:
    """Quantities of meters that do not add up: those of the days are no part of that of the range."""
    days = report.days
    totals = reports.exact_totals(session, organization_id, days, exact_meters, report.mode)
    for code, quantity in totals.items():
        by_meter[code].quantity = quantity
    span = TimeseriesRange([days.starts_at], days.ends_at, [], None, report.mode)
    for name in {name for meter, name, _ in dimensions if meter in exact_meters}:
        for point in reports.exact_points(session, organization_id, span, exact_meters, f"dimension:{name}"):
            value = None if point.group is None else str(point.group)
            if usage := dimensions.get((point.meter, name, value)):
                usage.quantity = point.quantity


@dataclass(frozen=True)
class _Pricing:
    """Segments of a subscription with their plan versions; versions in an earlier currency have no prices."""

    segments: Sequence[PlanSegment]
    versions: Mapping[str, RatedPlanVersion]
    currency: str

    @property
    def boundaries(self) -> list[datetime]:
        """Where each segment begins."""
        return [segment.starts_at for segment in self.segments]

    def cost(self, calls: AcceptedCalls | TimeseriesPoint) -> Decimal:
        """Cost of calls at list price, in major units; 0 without a price, and for a meter that does not add up."""
        segment = self.segments[max(calls.segment - 1, 0)]  # 0 is before the first boundary
        price = self.versions[segment.version_id].prices.get(calls.meter)
        if price is None or calls.aggregation != "sum":
            return Decimal(0)
        return charges.list_price_cost(price.by_value[price.value_for(calls.dimensions)], calls.quantity)


def _get_pricing(session: Session, organization_id: UUID) -> _Pricing:
    segments = subscriptions.list_segments(session, organization_id)
    versions = plans.get_versions(session, {segment.version_id for segment in segments})
    currency = versions[segments[-1].version_id].currency if segments else money.DEFAULT_CURRENCY
    priced = {
        version_id: version if version.currency == currency else replace(version, prices={})
        for version_id, version in versions.items()
    }
    return _Pricing(segments, priced, currency)


def _accepted_with_cost(
    session: Session, organization_id: UUID, days: DateRange, mode: str, pricing: _Pricing, meter: str | None
) -> Iterator[tuple[AcceptedCalls, Decimal]]:
    for row in reports.accepted_calls(session, organization_id, days, pricing.boundaries, mode):
        if meter in (None, row.meter):
            yield row, pricing.cost(row) if mode == "live" else Decimal(0)


def get_key_names(session: Session, organization_id: UUID, mode: str | None = None) -> dict[UUID, str]:
    """Names of the API keys of an organization by id, revoked keys included.

    mode: "live" or "test"; keys of both when None
    """
    rows = session.execute(
        text("""SELECT id, name FROM api_keys WHERE organization_id = :organization_id
          AND (CAST(:mode AS text) IS NULL OR mode = :mode)"""),
        {"organization_id": organization_id, "mode": mode},
    )
    return dict(rows.all())


def _add_charges(
    session: Session,
    organization_id: UUID,
    report: UsageReport,
    pricing: _Pricing,
    by_meter: Mapping[str, MeterUsage],
    meter: str | None,
) -> None:
    """Add the charge up to the end of the range less the charge before its start, by period and price.

    Usage counts in the period in which it happened, so the charges of adjacent ranges add up, late usage included.
    """
    by_period: defaultdict[tuple[datetime, datetime], list[RangeQuantity]] = defaultdict(list)
    for row in range_quantities.list_range_quantities(session, organization_id, report.days):
        by_period[row.period_starts_at, row.period_ends_at].append(row)
    paused = pauses.list_pauses(session, organization_id) if by_period else []
    for bounds, rows in by_period.items():
        segments = plan_changes.prorate_segments(pricing.segments, *bounds, paused)
        for quantity_of, sign in ((attrgetter("through"), 1), (attrgetter("before"), -1)):
            used = [UsageQuantity(row.version_id, row.meter, quantity_of(row), row.dimension_value) for row in rows]
            prices = bill.period_prices(pricing.versions, segments, used)
            for usage in used:
                if meter in (None, usage.meter) and (price := prices.get(usage.key)):
                    report.total_cost_minor += sign * charges.rounded_charge(price, usage.quantity)
                    by_meter[usage.meter].included += sign * min(usage.quantity, price.included_quantity)


@dataclass
class UsagePoint:
    """Accepted calls of one hour or day.

    date: local day of `at`
    quantity: in the meter's unit; a sum over several meters has no meaning
    cost: in major units, at list price
    """

    at: datetime
    date: date
    requests: int = 0
    quantity: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)


def usage_series(
    session: Session, organization_id: UUID, days: DateRange, query: Mapping[str, Any]
) -> dict[str | UUID | None, list[UsagePoint]]:
    """Accepted calls over time by meter, key, source or dimension, with a point for every hour or day.

    query: interval, meter, mode, group_by as for `reports.group_of`
    returns: points by group; without group_by one group, None, which is also that of calls without key or dimension
    raises: InvalidDateRange for too many points
    """
    starts = ranges.bucket_starts(days, query["interval"])
    series = _collect_points(session, organization_id, days, starts, query)
    return series if series or query["group_by"] else {None: _empty_points(starts, days)}


def usage_by_group(
    session: Session, organization_id: UUID, days: DateRange, query: Mapping[str, Any]
) -> dict[str | UUID | None, UsagePoint]:
    """Accepted calls of a whole range by group.

    query: meter, mode, group_by as for `usage_series`
    """
    series = _collect_points(session, organization_id, days, [days.starts_at], query)
    return {group: points[0] for group, points in series.items()}


def _collect_points(
    session: Session, organization_id: UUID, days: DateRange, starts: Sequence[datetime], query: Mapping[str, Any]
) -> dict[str | UUID | None, list[UsagePoint]]:
    pricing, mode, group_by = _get_pricing(session, organization_id), query["mode"], query["group_by"]
    span = TimeseriesRange(starts, days.ends_at, pricing.boundaries, query["meter"], mode)
    series: dict[str | UUID | None, list[UsagePoint]] = {}
    rows = reports.timeseries(session, organization_id, span)
    for row in rows:
        group = reports.group_of(row, group_by)
        if group not in series:
            series[group] = _empty_points(starts, days)
        point = series[group][row.point]
        point.requests += row.requests
        point.quantity += row.quantity
        point.cost += pricing.cost(row) if mode == "live" else 0
    exact_meters = quantities.select_exact(rows)
    for exact in reports.exact_points(session, organization_id, span, exact_meters, group_by):
        series[exact.group][exact.point].quantity += exact.quantity
    return series


def total_series(
    session: Session,
    organization_id: UUID,
    days: DateRange,
    query: Mapping[str, Any],
    series: Mapping[Any, list[UsagePoint]],
) -> list[UsagePoint]:
    """All series of `usage_series` together; those of a meter that does not add up are read again as one."""
    meter = query["meter"]
    if query["group_by"] and meter and not meters.get_meter(session, meter).aggregation.is_additive:
        return usage_series(session, organization_id, days, {**query, "group_by": None})[None]
    return sum_series(series, days, query["interval"])


def sum_series(series: Mapping[Any, list[UsagePoint]], days: DateRange, interval: str) -> list[UsagePoint]:
    """Sum of all series, point by point."""
    totals = _empty_points(ranges.bucket_starts(days, interval), days)
    for points in series.values():
        for total, point in zip(totals, points, strict=True):
            total.requests += point.requests
            total.quantity += point.quantity
            total.cost += point.cost
    return totals


def _empty_points(starts: Sequence[datetime], days: DateRange) -> list[UsagePoint]:
    return [UsagePoint(at, at.astimezone(days.zone).date()) for at in starts]


def report_currency(session: Session, organization_id: UUID) -> str:
    """Currency of the newest plan version of an organization."""
    return plans.version_currency(session, subscriptions.list_segments(session, organization_id)[-1].version_id)


class UsageRow(NamedTuple):
    """Calls of one day, endpoint, key, outcome, meter and values of its dimensions; refused calls have no meter.

    cost: in major units at list price
    """

    day: date
    method: str
    endpoint: str
    api_key_id: UUID | None
    meter: str | None
    quantity: Decimal | None
    outcome: str
    requests: int
    cost: Decimal | None
    dimensions: Mapping[str, str]


def usage_rows(
    session: Session, organization_id: UUID, days: DateRange, mode: str, meter: str | None = None
) -> Iterator[UsageRow]:
    """Rows of the usage CSV: accepted calls, then, without a chosen meter, the refused ones."""
    pricing = _get_pricing(session, organization_id)
    for row, cost in _accepted_with_cost(session, organization_id, days, mode, pricing, meter):
        place = (row.day, *sources.get_endpoint(row.source), row.api_key_id)
        yield UsageRow(*place, row.meter, row.quantity, "accepted", row.requests, cost, row.dimensions)
    for refused in request_counts.refused_calls(session, organization_id, days, mode) if meter is None else ():
        place = (refused.day, refused.method, refused.route, refused.api_key_id)
        yield UsageRow(*place, None, None, refused.outcome, refused.requests, None, {})
