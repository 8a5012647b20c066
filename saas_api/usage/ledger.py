"""The append-only ledger of metered calls: writes one, lists the events of an invoice line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Row, RowMapping, text
from sqlalchemy.orm import Session

from saas_api.core import clock
from saas_api.core.db.prepared import Statement

KEY_CONSTRAINT = "usage_event_keys_pkey"
"""Constraint that usage violates whose organization, source and idempotency key were recorded before."""

REVERSAL_SOURCE = "reversal"
"""Source of reversals, whose idempotency key is the id of the event."""


@dataclass(frozen=True)
class MeteredUsage:
    """What a call uses of one meter.

    quantity: in the meter's unit, at most six decimals
    properties: such as the dimensions by which it is priced
    """

    meter: str
    quantity: Decimal
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class UsageRecord:
    """One metered call to append to the ledger.

    source: what metered it, such as "messages.send"
    key: idempotency key, unique for an organization and source
    quantity: in the meter's unit, above 0
    at: time of the call
    endpoint: of the service's API, such as "POST /v1/lookups"; shown instead of the source
    unique_value: what a meter with aggregation unique counts
    """

    id: UUID
    source: str
    key: str
    meter: str
    quantity: Decimal | int
    at: datetime
    api_key_id: UUID | None = None
    message_id: UUID | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    endpoint: str | None = None
    unique_value: str | None = None


# One join of ranges for all events, because a search for each event takes ten times as long. Segments are a chain
# without overlaps; the last one has no end here, even where the subscription has ended.
SEGMENTS_SQL = """(SELECT plan_version_id AS version_id, starts_at,
    coalesce(lead(starts_at) OVER (ORDER BY seq), 'infinity') AS ends_at
  FROM subscription_segments WHERE organization_id = :organization_id)"""


IN_MONTH_OF_PERIOD = """e.month = (SELECT month FROM billing_periods
    WHERE organization_id = :organization_id AND id = :period_id)"""
"""Of an event `e` that the period pays for: in which partition it is."""

IN_LEDGER = "p.month NOT IN (SELECT month FROM archived_partitions WHERE table_name = 'usage_events')"
"""Of a billing period `p`: the usage that it pays for is here and not archived."""


def slice_value_condition(properties: str) -> str:
    """Whether usage has the dimension's value of a `LineSlice`.

    properties: SQL expression, jsonb
    """
    return f"""(CAST(:dimension AS text) IS NULL OR CASE WHEN :dimension_value <> ''
    THEN {properties} ->> :dimension = :dimension_value
    ELSE coalesce({properties} ->> :dimension, '') NOT IN (
      SELECT dimension_value FROM prices WHERE plan_version_id = :version_id AND meter_code = :meter
        AND dimension_value <> '') END)"""


_LINE_EVENTS = f"""FROM usage_events e
JOIN {SEGMENTS_SQL} s ON e.occurred_at >= s.starts_at AND e.occurred_at < s.ends_at
WHERE e.organization_id = :organization_id AND e.billing_period_id = :period_id AND e.meter_code = :meter
  AND {IN_MONTH_OF_PERIOD}
  AND e.late_for_period_id IS NOT DISTINCT FROM CAST(:late_for_period_id AS uuid) AND s.version_id = :version_id
  AND {slice_value_condition("e.properties")}"""
# In the order of the ledger's index, so that a page needs no sort of all events.
_SLICE_PAGE = text(f"""SELECT e.id, e.recorded_xid, e.occurred_at, e.recorded_at, e.meter_code, e.quantity, e.source,
  e.idempotency_key, e.api_key_id, e.message_id, e.reversal_of, e.properties, e.unique_value {_LINE_EVENTS}
  AND e.recorded_xid >= :xid AND (e.recorded_xid, e.id) > (:xid, CAST(:id AS uuid))
ORDER BY e.recorded_xid, e.id LIMIT :limit""")


@dataclass(frozen=True)
class LineSlice:
    """Events of an invoice line: one meter under one plan version in one billing period.

    period_id: the period that pays
    late_for_period_id: the closed period in which they happened; None when it is the period that pays
    dimension: by which the version prices the meter; None for one price
    dimension_value: "" for all values without a price of their own
    """

    organization_id: UUID
    period_id: UUID
    late_for_period_id: UUID | None
    version_id: str
    meter: str
    dimension: str | None = None
    dimension_value: str = ""

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the SQL statements."""
        return dict(vars(self))


def list_events(session: Session, line: LineSlice, after: RowMapping | None, limit: int) -> Sequence[RowMapping]:
    """The next events and reversals of an invoice line, in the order of recording.

    after: last row of the previous page
    """
    position = {"xid": after["recorded_xid"], "id": after["id"]} if after else {"xid": 0, "id": UUID(int=0)}
    return session.execute(_SLICE_PAGE, {**line.parameters, **position, "limit": limit}).mappings().all()


def has_usage(session: Session, organization_id: UUID, period_id: UUID) -> bool:
    """Whether a billing period pays for any usage."""
    statement = text(f"""SELECT EXISTS (SELECT FROM usage_events e
      WHERE e.organization_id = :organization_id AND e.billing_period_id = :period_id AND {IN_MONTH_OF_PERIOD})""")
    return bool(session.scalar(statement, {"organization_id": organization_id, "period_id": period_id}))


_IS_ARCHIVED = text(f"""SELECT EXISTS (SELECT FROM billing_periods p
  WHERE p.organization_id = :organization_id AND p.id = :period_id AND NOT ({IN_LEDGER}))""")


def is_archived(session: Session, organization_id: UUID, period_id: UUID) -> bool:
    """Whether the usage that a billing period pays for has left the ledger for an archive."""
    return bool(session.scalar(_IS_ARCHIVED, {"organization_id": organization_id, "period_id": period_id}))


_ARCHIVED_BEFORE = text(f"""SELECT max(p.ends_at) FROM billing_periods p
  WHERE p.organization_id = :organization_id AND p.ends_at > :starts_at AND p.starts_at < :ends_at
    AND NOT ({IN_LEDGER})""")


def archived_before(session: Session, organization_id: UUID, starts_at: datetime, ends_at: datetime) -> datetime | None:
    """End of the last billing period within a time whose usage is archived; None when all of it is in the ledger."""
    values = {"organization_id": organization_id, "starts_at": starts_at, "ends_at": ends_at}
    found: datetime | None = session.scalar(_ARCHIVED_BEFORE, values)
    return found


_FIND_EVENT = """SELECT event_id AS id, quantity FROM usage_event_keys WHERE organization_id = :organization_id
  AND source = :source AND idempotency_key = :key"""
_FIND_TEST_EVENT = """SELECT id, quantity FROM test_usage_events WHERE organization_id = :organization_id
  AND source = :source AND idempotency_key = :key"""


def find_event(
    session: Session, organization_id: UUID, source: str, key: str, *, is_test: bool = False
) -> Row[Any] | None:
    """Id and quantity of the usage with an idempotency key, archived or not; None if nothing was recorded under it.

    is_test: look for a call of a test key
    """
    values = {"organization_id": organization_id, "source": source, "key": key}
    return session.execute(text(_FIND_TEST_EVENT if is_test else _FIND_EVENT), values).first()


_OPEN_AT = """SELECT id, month, NULL::uuid AS late_for_id FROM billing_periods WHERE organization_id = %(usage_org)s
  AND state = 'open' AND starts_at <= %(usage_at)s AND ends_at > %(usage_at)s"""
# The period that contains the time of the call, the one that contains the present, else the earliest.
_OPEN_FOR_LATE = """SELECT id, month, (SELECT id FROM billing_periods WHERE organization_id = %(usage_org)s
    AND state <> 'open' AND starts_at <= %(usage_at)s AND ends_at > %(usage_at)s) AS late_for_id
  FROM billing_periods WHERE organization_id = %(usage_org)s AND state = 'open'
  ORDER BY starts_at <= %(usage_at)s AND ends_at > %(usage_at)s DESC,
    starts_at <= %(usage_now)s AND ends_at > %(usage_now)s DESC, seq LIMIT 1"""
# The join keeps the row where no period is open, so that PostgreSQL refuses it.
_APPEND = """WITH paying AS (SELECT p.* FROM (VALUES (1)) one LEFT JOIN ({period}) p ON true),
key AS (
  INSERT INTO usage_event_keys (organization_id, source, idempotency_key, event_id, month, quantity)
  SELECT %(usage_org)s, %(usage_source)s, %(usage_key)s, %(usage_id)s, month, %(usage_quantity)s FROM paying)
INSERT INTO usage_events (organization_id, id, source, idempotency_key, meter_code, quantity, occurred_at, api_key_id,
  message_id, properties, endpoint, unique_value, billing_period_id, late_for_period_id, month)
SELECT %(usage_org)s, %(usage_id)s, %(usage_source)s, %(usage_key)s, %(usage_meter)s, %(usage_quantity)s, %(usage_at)s,
  %(usage_api_key)s, %(usage_message)s, CAST(%(usage_properties)s AS jsonb), %(usage_endpoint)s,
  %(usage_unique_value)s, id, late_for_id, month FROM paying"""
_APPEND_NOW, _APPEND_LATE = _APPEND.format(period=_OPEN_AT), _APPEND.format(period=_OPEN_FOR_LATE)
_APPEND_TEST = """INSERT INTO test_usage_events (organization_id, id, source, idempotency_key, meter_code, quantity,
  occurred_at, api_key_id, properties, endpoint)
VALUES (%(usage_org)s, %(usage_id)s, %(usage_source)s, %(usage_key)s, %(usage_meter)s, %(usage_quantity)s, %(usage_at)s,
  %(usage_api_key)s, CAST(%(usage_properties)s AS jsonb), %(usage_endpoint)s)"""


def append_usage_statement(organization_id: UUID, usage: UsageRecord, *, is_late: bool = False) -> Statement:
    """SQL and parameters that append one ledger row, for `core.db.engine.execute_batch`.

    An earlier statement of the same batch must take the shared period lock. Without a period that is open at
    `usage.at` nothing is written: the database refuses a NULL `billing_period_id`.
    is_late: if no open period contains `usage.at`, the current period pays, else the earliest open one, and the row
        refers to the closed period
    """
    return _APPEND_LATE if is_late else _APPEND_NOW, _row_values(organization_id, usage)


def append_test_usage_statement(organization_id: UUID, usage: UsageRecord) -> Statement:
    """SQL and parameters that keep one call of a test key, for `core.db.engine.execute_batch`."""
    return _APPEND_TEST, _row_values(organization_id, usage)


def _row_values(organization_id: UUID, usage: UsageRecord) -> dict[str, Any]:
    return {
        "usage_org": organization_id,
        "usage_id": usage.id,
        "usage_source": usage.source,
        "usage_key": usage.key,
        "usage_meter": usage.meter,
        "usage_quantity": usage.quantity,
        "usage_at": usage.at,
        "usage_now": clock.now(),
        "usage_api_key": usage.api_key_id,
        "usage_message": usage.message_id,
        "usage_properties": orjson.dumps(dict(usage.properties)).decode(),
        "usage_endpoint": usage.endpoint,
        "usage_unique_value": usage.unique_value,
    }


def reverse_events(session: Session, organization_id: UUID, chosen_sql: str, values: Mapping[str, Any]) -> list[UUID]:
    """Write one reversal for each of some usage events of an organization, unless it has one.

    The period of the event pays for it or, if that is closed, the earliest open one. The caller holds the shared period
    lock.

    chosen_sql: a query of (event_id, month, reversal_id), a constant of the caller; month is that of the partition
    values: its parameters
    returns: ids of the events that were reversed
    raises: IntegrityError on usage_events.billing_period_id when no period is open
    """
    statement = text(_REVERSE.format(chosen=chosen_sql))
    return list(session.scalars(statement, {**values, "organization_id": organization_id}))


# Rows without a period are kept, so that PostgreSQL refuses them.
_REVERSE = f"""
WITH chosen AS MATERIALIZED (
  SELECT u.*, c.reversal_id, paying.id AS paying_id, paying.month AS paying_month,
    CASE p.state WHEN 'open' THEN u.late_for_period_id ELSE coalesce(u.late_for_period_id, p.id) END AS late_for_id
  FROM ({{chosen}}) AS c
  JOIN usage_events u ON u.organization_id = :organization_id AND u.id = c.event_id AND u.month = c.month
  JOIN billing_periods p ON p.organization_id = u.organization_id AND p.id = u.billing_period_id
  LEFT JOIN LATERAL (SELECT id, month FROM billing_periods WHERE organization_id = :organization_id AND state = 'open'
    ORDER BY id = p.id DESC, seq LIMIT 1) paying ON true),
keyed AS (
  INSERT INTO usage_event_keys (organization_id, source, idempotency_key, event_id, month, quantity)
  SELECT organization_id, '{REVERSAL_SOURCE}', CAST(id AS text), reversal_id, paying_month, -quantity FROM chosen
  WHERE paying_id IS NOT NULL ON CONFLICT (organization_id, source, idempotency_key) DO NOTHING RETURNING event_id)
INSERT INTO usage_events (organization_id, id, source, idempotency_key, meter_code, quantity, occurred_at, api_key_id,
  message_id, properties, endpoint, unique_value, billing_period_id, late_for_period_id, reversal_of, month)
SELECT organization_id, reversal_id, '{REVERSAL_SOURCE}', CAST(id AS text), meter_code, -quantity, occurred_at,
  api_key_id, message_id, properties, endpoint, unique_value, paying_id, late_for_id, id, paying_month
FROM chosen LEFT JOIN keyed ON keyed.event_id = chosen.reversal_id
WHERE keyed.event_id IS NOT NULL OR paying_id IS NULL RETURNING reversal_of"""
