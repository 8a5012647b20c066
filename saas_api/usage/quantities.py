"""Quantities of a billing period from the ledger, for bills; what is only shown reads `live_quantities`.

Meters with aggregation sum and count add up. All others are read from their events: the highest quantity, that of the
last event by `occurred_at` (of the last recorded one of several), or the number of distinct values, without events that
were reversed. A price by dimension divides the events by the values that have a price of their own in the plan version
that was in force; the value "" stands for all others.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core.db import types
from saas_api.usage.ledger import IN_MONTH_OF_PERIOD, SEGMENTS_SQL

Chain = Sequence[tuple[str, datetime]]
"""Plan versions with their starts, in order."""


class Summed(Protocol):
    """A sum of usage of a meter; `aggregation` is "sum" for every meter that adds up."""

    @property
    def meter(self) -> str: ...
    @property
    def aggregation(self) -> str: ...


class PeriodQuantity(NamedTuple):
    """Usage of one meter under one plan version, in the meter's unit.

    dimension_value: value of the dimension by which the version prices the meter; "" for all without their own price
    aggregation: "sum" for every meter that adds up, otherwise that of the meter
    """

    version_id: str
    meter: str
    dimension_value: str
    aggregation: str
    quantity: Decimal


class LatePeriodQuantity(NamedTuple):
    """Usage of one meter under one plan version in a closed period, in the meter's unit.

    billed: what the period and those between have been charged for
    quantity: what the usage adds that the paying period pays for; below 0 for reversed usage
    """

    period_id: UUID
    version_id: str
    meter: str
    dimension_value: str
    aggregation: str
    billed: Decimal
    quantity: Decimal


_GIVEN_SEGMENTS = """(SELECT version_id, starts_at,
    coalesce(lead(starts_at) OVER (ORDER BY starts_at), 'infinity') AS ends_at
  FROM unnest(CAST(:versions AS text[]), CAST(:starts AS timestamptz[])) AS s (version_id, starts_at))"""
_HAS_PRICES_BY_DIMENSION = "(SELECT EXISTS (SELECT FROM prices WHERE dimension_value <> ''))"
AGGREGATION_SQL = "replace(m.aggregation, 'count', 'sum')"
"""Of a meter `m`: "sum" for every meter that adds up."""


def price_join(version: str, meter: str, properties: str) -> str:
    """A join with the price `d` of a dimension's value. `d.dimension_value` is NULL without a price of its own.

    version, meter, properties: SQL expressions; properties is jsonb
    """
    return f"""LEFT JOIN prices d ON d.plan_version_id = {version} AND d.meter_code = {meter}
  AND d.dimension_value <> '' AND d.dimension_value = {properties} ->> d.dimension"""


def exact_sql(groups: str, facts: str) -> str:
    """Quantities of meters that do not add up.

    groups: names of columns of the facts, separated by commas
    facts: a query of usage events that count, with the groups, aggregation, quantity, unique_value, occurred_at,
        recorded_xid and id
    returns: a query of the groups, aggregation and quantity
    """
    return f"""SELECT {groups}, aggregation, CASE aggregation WHEN 'max' THEN max(quantity)
    WHEN 'unique' THEN count(DISTINCT unique_value) ELSE max(quantity) FILTER (WHERE is_last) END AS quantity
  FROM (SELECT *, row_number() OVER (
          PARTITION BY {groups} ORDER BY occurred_at DESC, recorded_xid DESC, id DESC) = 1 AS is_last
        FROM ({facts}) facts) ranked
  GROUP BY {groups}, aggregation ORDER BY {groups}"""


VALUE_SQL = "coalesce(d.dimension_value, '')"
"""Value of the dimension, of a price `d` as `price_join` finds it."""
_EVENT_PRICE = price_join("s.version_id", "e.meter_code", "e.properties")
EXACT_COLUMNS = "m.aggregation, e.quantity, e.unique_value, e.occurred_at, e.recorded_xid, e.id"
NOT_REVERSED = """e.reversal_of IS NULL AND NOT EXISTS (
    SELECT FROM usage_events r WHERE r.organization_id = e.organization_id AND r.reversal_of = e.id)"""
_IN_FORCE = "s ON e.occurred_at >= s.starts_at AND e.occurred_at < s.ends_at"
# A reversal that another period pays for leaves the quantity of the event's own period as it was.
_COUNTS_IN_PERIOD = f"""e.organization_id = :organization_id AND e.billing_period_id = :period_id
  AND {IN_MONTH_OF_PERIOD}
  AND e.late_for_period_id IS NULL AND e.meter_code = ANY (:meters) AND e.reversal_of IS NULL AND NOT EXISTS (
    SELECT FROM usage_events r WHERE r.organization_id = :organization_id AND r.reversal_of = e.id
      AND r.billing_period_id = :period_id AND r.month = e.month)"""


def _sums_sql(keys: str, sums: str, body: str) -> str:
    """Sums of events `e` under the plan versions `s`, with the aggregation of their meter.

    Of the two halves only one runs: while no price has a dimension, events are not joined with prices, which would
    take almost half as long again.

    keys: names of columns, meter among them
    sums: names of the columns with sums
    body: a query with the columns keys, dimension_value and sums; it has places for the dimension's value, a join and a
        condition
    """
    halves = (
        body.format(value="''", join="", condition=f"NOT {_HAS_PRICES_BY_DIMENSION}"),
        body.format(value=VALUE_SQL, join=_EVENT_PRICE, condition=_HAS_PRICES_BY_DIMENSION),
    )
    return f"""SELECT {keys}, dimension_value, {AGGREGATION_SQL}, {sums}
      FROM ({" UNION ALL ".join(halves)}) summed JOIN meters m ON m.code = meter ORDER BY {keys}, dimension_value"""


def select_exact(rows: Iterable[Summed]) -> set[str]:
    """The meters of some rows that do not add up."""
    return {row.meter for row in rows if row.aggregation != "sum"}


_PERIOD_SUMS = """SELECT s.version_id, e.meter_code AS meter, {{value}} AS dimension_value, sum(e.quantity) AS used
  FROM usage_events e JOIN {segments} s ON e.occurred_at >= s.starts_at AND e.occurred_at < s.ends_at {{join}}
  WHERE e.organization_id = :organization_id AND e.billing_period_id = :period_id AND e.late_for_period_id IS NULL
    AND {in_month} AND {{condition}} GROUP BY 1, 2, 3"""


def period_quantities(
    session: Session, organization_id: UUID, period_id: UUID, chain: Chain | None = None
) -> list[PeriodQuantity]:
    """Usage of a period without late usage, by plan version in force at the time, meter and value of the dimension.

    chain: plan versions with their starts, in order, as if the subscription had them; None for those that it has
    """
    segments, values = segments_sql(chain)
    values |= {"organization_id": organization_id, "period_id": period_id}
    statement = text(
        _sums_sql("version_id, meter", "used", _PERIOD_SUMS.format(segments=segments, in_month=IN_MONTH_OF_PERIOD))
    )
    rows = [PeriodQuantity(*row) for row in session.execute(statement, values)]
    exact_meters = select_exact(rows)
    sums = [row for row in rows if row.meter not in exact_meters]
    return sorted([*sums, *exact_quantities(session, organization_id, period_id, exact_meters, chain)])


# PostgreSQL leaves out the partitions of other months only when it has the months before it plans.
_MONTHS = text("""SELECT DISTINCT month FROM billing_periods
WHERE organization_id = ANY (CAST(:organizations AS uuid[])) AND id = ANY (CAST(:periods AS uuid[]))""")
_IN_MONTHS = "e.month = ANY (CAST(:months AS date[]))"
# The periods are joined and not looked up one by one: where one organization has most of the events, PostgreSQL would
# choose to read all of them for each of the others.
_BATCH_PERIOD_SUMS = f"""SELECT paid.period_id, s.version_id, e.meter_code AS meter, {{value}} AS dimension_value,
    sum(e.quantity) AS used
  FROM paid
  JOIN usage_events e ON e.organization_id = paid.organization_id AND e.billing_period_id = paid.period_id
  JOIN segments s ON s.organization_id = e.organization_id
    AND e.occurred_at >= s.starts_at AND e.occurred_at < s.ends_at {{join}}
  WHERE e.late_for_period_id IS NULL AND {_IN_MONTHS} AND {{condition}} GROUP BY 1, 2, 3, 4"""
_BATCH_SUMS = text(f"""WITH paid AS (
  SELECT * FROM unnest(CAST(:organizations AS uuid[]), CAST(:periods AS uuid[])) AS p (organization_id, period_id)),
segments AS (SELECT organization_id, plan_version_id AS version_id, starts_at,
    coalesce(lead(starts_at) OVER (PARTITION BY organization_id ORDER BY seq), 'infinity') AS ends_at
  FROM subscription_segments WHERE organization_id = ANY (CAST(:organizations AS uuid[])))
{_sums_sql("period_id, version_id, meter", "used", _BATCH_PERIOD_SUMS)}""")
_PAYING_LATE_USAGE = text(f"""SELECT DISTINCT e.billing_period_id FROM usage_events e
WHERE e.organization_id = ANY (CAST(:organizations AS uuid[])) AND e.billing_period_id = ANY (CAST(:periods AS uuid[]))
  AND {_IN_MONTHS} AND e.late_for_period_id IS NOT NULL""")


def period_quantities_in_batch(
    session: Session, periods: Sequence[tuple[UUID, UUID]]
) -> defaultdict[UUID, list[PeriodQuantity]]:
    """As `period_quantities`, of the periods of several organizations.

    periods: organization and id of each
    returns: the usage by period
    """
    used: defaultdict[UUID, list[PeriodQuantity]] = defaultdict(list)
    for period_id, *row in session.execute(_BATCH_SUMS, _batch_values(session, periods)):
        used[period_id].append(PeriodQuantity(*row))
    for organization_id, period_id in periods:
        if exact_meters := select_exact(used[period_id]):
            sums = [row for row in used[period_id] if row.meter not in exact_meters]
            exact = exact_quantities(session, organization_id, period_id, exact_meters)
            used[period_id] = sorted([*sums, *exact])
    return used


def list_paying_late_usage(session: Session, periods: Sequence[tuple[UUID, UUID]]) -> set[UUID]:
    """The periods that pay for late usage, by id.

    periods: organization and id of each
    """
    return set(session.scalars(_PAYING_LATE_USAGE, _batch_values(session, periods)))


def _batch_values(session: Session, periods: Sequence[tuple[UUID, UUID]]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "organizations": types.uuid_array([organization_id for organization_id, _ in periods]),
        "periods": types.uuid_array([period_id for _, period_id in periods]),
    }
    return {**values, "months": list(session.scalars(_MONTHS, values))}


def exact_quantities(
    session: Session, organization_id: UUID, period_id: UUID, meters: Collection[str], chain: Chain | None = None
) -> list[PeriodQuantity]:
    """As `period_quantities`, of meters that do not add up."""
    if not meters:
        return []
    segments, values = segments_sql(chain)
    facts = f"""SELECT s.version_id, e.meter_code, {VALUE_SQL} AS value, {EXACT_COLUMNS}
      FROM usage_events e JOIN meters m ON m.code = e.meter_code JOIN {segments} {_IN_FORCE} {_EVENT_PRICE}
      WHERE {_COUNTS_IN_PERIOD}"""
    rows = session.execute(
        text(exact_sql("version_id, meter_code, value", facts)),
        {**values, "organization_id": organization_id, "period_id": period_id, "meters": list(meters)},
    )
    return [PeriodQuantity(*row) for row in rows]


def segments_sql(chain: Chain | None) -> tuple[str, dict[str, Any]]:
    """SQL of the plan versions over time, with its parameters; None stands for those that the subscription has."""
    if chain is None:
        return SEGMENTS_SQL, {}
    return _GIVEN_SEGMENTS, {"versions": [one for one, _ in chain], "starts": [starts_at for _, starts_at in chain]}


def exact_totals(
    session: Session, organization_id: UUID, period_id: UUID, meters: Collection[str]
) -> dict[str, Decimal]:
    """Quantities of meters that do not add up in a period, without late usage, under all plan versions together."""
    if not meters:
        return {}
    facts = f"""SELECT e.meter_code, {EXACT_COLUMNS}
      FROM usage_events e JOIN meters m ON m.code = e.meter_code WHERE {_COUNTS_IN_PERIOD}"""
    values = {"organization_id": organization_id, "period_id": period_id, "meters": list(meters)}
    rows = session.execute(text(exact_sql("meter_code", facts)), values)
    return {row.meter_code: row.quantity for row in rows}


_LATE_EVENTS = f"""usage_events e
JOIN billing_periods paying ON paying.organization_id = e.organization_id AND paying.id = e.billing_period_id
  AND paying.month = e.month
JOIN {SEGMENTS_SQL} {_IN_FORCE}"""
_IS_OF_LATE_PERIOD = """e.organization_id = :organization_id
  AND paying.seq <= (SELECT seq FROM billing_periods WHERE organization_id = :organization_id AND id = :period_id)
  AND (e.late_for_period_id = ANY (:late_periods)
    OR e.late_for_period_id IS NULL AND e.billing_period_id = ANY (:late_periods))"""
_LATE_PERIODS = text(f"""SELECT DISTINCT e.late_for_period_id FROM usage_events e
  WHERE e.organization_id = :organization_id AND e.billing_period_id = :period_id AND {IN_MONTH_OF_PERIOD}
    AND e.late_for_period_id IS NOT NULL""")
# Each event counts in what was billed before, in what comes to it now, or in both.
_LATE_FACTS = f"""SELECT coalesce(e.late_for_period_id, e.billing_period_id) AS period_id, s.version_id, e.meter_code,
    {VALUE_SQL} AS value, moment.is_now, {EXACT_COLUMNS}
  FROM {_LATE_EVENTS} {_EVENT_PRICE}
  JOIN meters m ON m.code = e.meter_code
  LEFT JOIN (SELECT r.reversal_of AS id, r.billing_period_id <> :period_id AS is_billed FROM usage_events r
    JOIN billing_periods p ON p.organization_id = r.organization_id AND p.id = r.billing_period_id AND p.month = r.month
    WHERE r.organization_id = :organization_id AND r.reversal_of IS NOT NULL AND p.seq <= (
      SELECT seq FROM billing_periods WHERE organization_id = :organization_id AND id = :period_id)
  ) reversed ON reversed.id = e.id
  CROSS JOIN (VALUES (false), (true)) AS moment (is_now)
  WHERE {_IS_OF_LATE_PERIOD} AND e.meter_code = ANY (:meters) AND e.reversal_of IS NULL
    AND CASE WHEN moment.is_now THEN reversed.id IS NULL
      ELSE paying.id <> :period_id AND reversed.is_billed IS NOT TRUE END"""


_LATE_SUMS = f"""SELECT coalesce(e.late_for_period_id, e.billing_period_id) AS period_id, s.version_id,
    e.meter_code AS meter, {{value}} AS dimension_value,
    coalesce(sum(e.quantity) FILTER (WHERE paying.id <> :period_id), 0) AS billed,
    coalesce(sum(e.quantity) FILTER (WHERE paying.id = :period_id), 0) AS quantity
  FROM {_LATE_EVENTS} {{join}} WHERE {_IS_OF_LATE_PERIOD} AND {{condition}} GROUP BY 1, 2, 3, 4"""
_LATE_QUANTITIES = text(_sums_sql("period_id, version_id, meter", "billed, quantity", _LATE_SUMS))
_LATE_EXACT = text(f"""WITH exact AS (
  {exact_sql("period_id, version_id, meter_code, value, is_now", _LATE_FACTS)})
SELECT period_id, version_id, meter_code, value, aggregation, coalesce(sum(quantity) FILTER (WHERE NOT is_now), 0),
  coalesce(sum(quantity) FILTER (WHERE is_now), 0) - coalesce(sum(quantity) FILTER (WHERE NOT is_now), 0)
FROM exact GROUP BY 1, 2, 3, 4, 5""")


def late_period_quantities(session: Session, organization_id: UUID, period_id: UUID) -> list[LatePeriodQuantity]:
    """All usage of the closed periods whose late usage a period pays for, by period, plan version, meter and value."""
    values: dict[str, Any] = {"organization_id": organization_id, "period_id": period_id}
    late_periods = list(session.scalars(_LATE_PERIODS, values))
    if not late_periods:
        return []
    found = session.execute(_LATE_QUANTITIES, {**values, "late_periods": late_periods})
    rows = [LatePeriodQuantity(*row) for row in found]
    return replace_late_sums(session, organization_id, period_id, rows)


def replace_late_sums(
    session: Session, organization_id: UUID, period_id: UUID, rows: list[LatePeriodQuantity]
) -> list[LatePeriodQuantity]:
    """The rows of a paying period with the quantities of meters that do not add up in place of their sums."""
    exact_meters = select_exact(rows)
    if not exact_meters:
        return rows
    values = {
        "organization_id": organization_id,
        "period_id": period_id,
        "meters": list(exact_meters),
        "late_periods": list({row.period_id for row in rows}),
    }
    exact = (LatePeriodQuantity(*row) for row in session.execute(_LATE_EXACT, values))
    return sorted([*(row for row in rows if row.meter not in exact_meters), *exact])
