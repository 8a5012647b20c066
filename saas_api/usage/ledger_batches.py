"""Usage of many organizations appended to the ledger in one statement."""

from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TypedDict
from uuid import UUID

import orjson

from saas_api.core.db.prepared import Statement


class BatchedUsage(TypedDict):
    """One row to append.

    n: position in the batch; rows are locked in this order
    key: idempotency key, unique for an organization and source
    quantity: decimal text in the meter's unit
    is_test: usage of a test key, which no period pays for
    """

    n: int
    organization_id: UUID
    id: UUID
    source: str
    key: str
    meter: str
    quantity: str
    at: datetime
    api_key_id: UUID | None
    properties: orjson.Fragment
    unique_value: str | None
    is_test: bool


class RowOutcome(StrEnum):
    """Why a row was not appended by the statement.

    RECORDED: it was by the same call before, whose connection broke
    DUPLICATE: the organization and source have another row with its key
    TOO_OLD: its period is closed and it happened before the oldest time
    WITHOUT_PERIOD: no open period can pay for it
    """

    RECORDED = "recorded"
    DUPLICATE = "duplicate"
    TOO_OLD = "too_old"
    WITHOUT_PERIOD = "without_period"


# The first period begins at the beginning of time: usage from before the account existed counts at its start.
# IS TRUE makes PostgreSQL hash the new keys; it expects few rows, and a join would compare each with all.
# Rows with an obstacle and duplicates alone come back, because there are few.
_APPEND_BATCH = """
WITH e AS MATERIALIZED (
  SELECT * FROM json_to_recordset(CAST(%(batch_rows)s AS json)) AS e (n int, organization_id uuid, id uuid, source text,
    key text, meter text, quantity numeric, at timestamptz, api_key_id uuid, properties jsonb, unique_value text,
    is_test boolean)),
periods AS MATERIALIZED (
  SELECT organization_id, id, month, state = 'open' AS is_open, starts_at, ends_at,
    CASE seq WHEN 1 THEN '-infinity' ELSE starts_at END AS counts_from
  FROM billing_periods WHERE organization_id = ANY (CAST(%(batch_organizations)s AS uuid[]))),
paying AS (
  SELECT DISTINCT ON (organization_id) organization_id, id, month FROM periods WHERE is_open
  ORDER BY organization_id, (starts_at <= %(batch_now)s AND ends_at > %(batch_now)s) DESC, starts_at),
placed AS MATERIALIZED (
  SELECT e.*, p.starts_at, CASE WHEN p.is_open THEN p.id ELSE y.id END AS paying_id,
    CASE WHEN p.is_open THEN p.month ELSE y.month END AS month,
    CASE WHEN NOT p.is_open THEN p.id END AS late_for_id, CASE
    WHEN e.at <= %(batch_oldest)s AND (e.is_test OR NOT p.is_open OR e.at < p.starts_at) THEN 'too_old'
    WHEN NOT e.is_test AND (p.id IS NULL OR NOT p.is_open AND y.id IS NULL) THEN 'without_period' END AS obstacle
  FROM e
  LEFT JOIN periods p ON p.organization_id = e.organization_id AND e.at >= p.counts_from AND e.at < p.ends_at
  LEFT JOIN paying y ON y.organization_id = e.organization_id),
appendable AS (
  SELECT * FROM placed WHERE obstacle IS NULL
    AND NOT EXISTS (SELECT FROM placed WHERE obstacle = 'without_period'
      AND organization_id <> ALL (CAST(%(batch_closed)s AS uuid[])))
  ORDER BY n),
keyed AS (
  INSERT INTO usage_event_keys (organization_id, source, idempotency_key, event_id, month, quantity)
  SELECT organization_id, source, key, id, month, quantity FROM appendable WHERE NOT is_test
  ON CONFLICT DO NOTHING RETURNING event_id),
appended AS (
  INSERT INTO usage_events (organization_id, id, source, idempotency_key, meter_code, quantity, occurred_at, api_key_id,
    properties, unique_value, billing_period_id, late_for_period_id, month)
  SELECT organization_id, id, source, key, meter, quantity, greatest(at, starts_at), api_key_id, properties,
    unique_value, paying_id, late_for_id, month
  FROM appendable WHERE (id IN (SELECT event_id FROM keyed)) IS TRUE),
appended_tests AS (
  INSERT INTO test_usage_events (organization_id, id, source, idempotency_key, meter_code, quantity, occurred_at,
    api_key_id, properties)
  SELECT organization_id, id, source, key, meter, quantity, at, api_key_id, properties
  FROM appendable WHERE is_test ON CONFLICT DO NOTHING RETURNING id)
SELECT p.n, CASE WHEN coalesce(u.event_id, t.id) = p.id THEN 'recorded' WHEN u.event_id IS NOT NULL OR t.id IS NOT NULL
  THEN 'duplicate' ELSE coalesce(p.obstacle, 'duplicate') END AS outcome
FROM placed p
LEFT JOIN usage_event_keys u ON NOT p.is_test AND u.organization_id = p.organization_id AND u.source = p.source
  AND u.idempotency_key = p.key
LEFT JOIN test_usage_events t ON p.is_test AND t.organization_id = p.organization_id AND t.source = p.source
  AND t.idempotency_key = p.key
WHERE p.id NOT IN (SELECT event_id FROM keyed UNION ALL SELECT id FROM appended_tests)"""


def append_batch_statement(
    rows: Sequence[BatchedUsage],
    organization_ids: Collection[UUID],
    closed_ids: Collection[UUID],
    now: datetime,
    oldest: datetime,
) -> Statement:
    """SQL and parameters that append usage of many organizations, for `core.db.engine.execute_batch`.

    An earlier statement of the same batch must take the shared period locks. The period that contains a row's time
    pays for it; if it is closed, the one that contains `now`, else the earliest open one. Sent again after its
    connection broke, it finds the rows that it has committed by their ids.
    rows: ordered by organization, source and key, so that concurrent batches of the same rows do not deadlock
    organization_ids: of the rows
    closed_ids: organizations whose rows need no period; where one of another has none, nothing is appended
    oldest: a row of a closed period must be younger
    returns: with the statement's rows of (n, RowOutcome) for each row that it did not append
    """
    return _APPEND_BATCH, {
        "batch_rows": orjson.dumps(rows).decode(),
        "batch_organizations": list(organization_ids),
        "batch_now": now,
        "batch_oldest": oldest,
        "batch_closed": list(closed_ids),
    }
