"""Claims, results and scans of every outbox with twenty thousand due rows: each reads no more than it takes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from saas_api.core.db import tenancy
from saas_api.core.jobs import outbox
from saas_api.core.jobs.outbox import Claimable, RowResult
from saas_api.mail.dispatch import MAILS
from saas_api.messages.dispatch import MESSAGES
from saas_api.payments.provider_events import INBOX
from saas_api.webhooks import claims
from saas_api.webhooks.claims import DELIVERIES, Capacity
from tests.support.large_tables import insert_rows
from tests.support.query_plans import collect_scans

ACME, CAROL, ENDPOINT, OTHER_ENDPOINT = (UUID(int=number) for number in (1, 2, 3, 4))
LIMIT = 10
# Every tenth row belongs to the second owner; row 7 of the first was interrupted three times and is due last.
_ROWS = """SELECT {columns}, CASE n WHEN 7 THEN 3 ELSE 0 END,
  now() - CASE n WHEN 7 THEN 0 ELSE n END * interval '1 second' FROM generate_series(1, 20000) n"""
_MESSAGES = f"""INSERT INTO messages (organization_id, channel, recipient, body, accepted_at, interruptions, next_at)
  {_ROWS.format(columns="CASE n %% 10 WHEN 0 THEN {b} ELSE {a} END, 'sms', 'r', 'b', now()")}"""
_MAILS = f"""INSERT INTO mails (organization_id, template, recipient, interruptions, next_at)
  {_ROWS.format(columns="CASE n %% 10 WHEN 0 THEN {b} ELSE {a} END, 't', 'r'")}"""
_DELIVERIES = f"""INSERT INTO webhook_deliveries (endpoint_id, organization_id, event_id, interruptions, next_at)
  {_ROWS.format(columns=f"CASE n %% 10 WHEN 0 THEN {{b}} ELSE {{a}} END, '{ACME}', gen_random_uuid()")}"""
_EVENTS = f"""INSERT INTO provider_events (provider, event_id, event_type, body, received_at, interruptions, next_at)
  {_ROWS.format(columns="CASE n %% 10 WHEN 0 THEN {b} ELSE {a} END, 'evt_' || n, 'e', '', now()")}"""
_ENDPOINT_WITH_DUE_DELIVERY = f"""
SET LOCAL session_replication_role = replica;
INSERT INTO webhook_endpoints (organization_id, id, url, in_flight_limit)
  VALUES ('{ACME}', '{ENDPOINT}', 'https://acme.example', 10);
INSERT INTO events (organization_id, type, payload, subject_id, subject_version)
  SELECT '{ACME}', 'message.sent', '{{}}', '{ACME}', 1;
UPDATE webhook_deliveries SET next_at = now(), event_id = (SELECT id FROM events)
  WHERE id = (SELECT id FROM webhook_deliveries LIMIT 1)"""


def system_session(_owner: Any) -> AbstractContextManager[Session]:
    return tenancy.system_session("demo.seed")


def tenant_session(owner: Any) -> AbstractContextManager[Session]:
    return tenancy.tenant_session(owner[0] if isinstance(owner, tuple) else owner)


OUTBOXES = [
    pytest.param(MESSAGES, _MESSAGES, (ACME, CAROL), tenant_session, id="messages"),
    pytest.param(MAILS, _MAILS, (ACME, None), system_session, id="mails"),
    pytest.param(DELIVERIES, _DELIVERIES, ((ACME, ENDPOINT), (ACME, OTHER_ENDPOINT)), tenant_session, id="webhooks"),
    pytest.param(INBOX, _EVENTS, ("mock", "stripe"), system_session, id="provider-events"),
]


def literal(owner: Any) -> str:
    value = owner[-1] if isinstance(owner, tuple) else owner
    if value is None:
        return "NULL"
    return f"'{value}'::uuid" if isinstance(value, UUID) else f"'{value}'"


@pytest.mark.parametrize(("claimable", "insert", "owners", "session_for"), OUTBOXES)
def test_claim_and_record_read_as_many_rows_as_they_take(
    context: Flask,
    superuser: Any,
    claimable: Claimable,
    insert: str,
    owners: tuple[Any, Any],
    session_for: Callable[[Any], AbstractContextManager[Session]],
) -> None:
    """F2: one interrupted row behind a backlog is claimed first, then ten others, of each owner; none reads more.

    Nor does writing their results read the backlog of their owner.
    """
    first, second = owners
    insert_rows(superuser, claimable.table, insert.format(a=literal(first), b=literal(second)))
    for owner, count in ((first, 1), (first, LIMIT), (second, LIMIT)):
        with collect_scans(context, claimable.table) as scans, session_for(owner) as session:
            claim = outbox.claim(session, claimable, owner, limit=LIMIT)
        assert len(claim.rows) == count
        assert sum(scan.rows_read for scan in scans) < 5 * LIMIT
        results = [RowResult.retry(row.id, timedelta(hours=1)) for row in claim.rows]
        with collect_scans(context, claimable.table) as scans, session_for(owner) as session:
            assert len(outbox.record(session, claim, results)) == count
        assert sum(scan.rows_read for scan in scans) < 5 * LIMIT
    with collect_scans(context, claimable.table) as scans, system_session(None) as session:
        assert set(outbox.list_due(session, claimable).owners) == set(owners)
    assert sum(scan.rows_read for scan in scans) < 5 * LIMIT


@pytest.mark.parametrize(("claimable", "insert", "owners", "session_for"), [OUTBOXES[0], OUTBOXES[2]])
def test_record_reads_no_backlog_that_the_planner_does_not_know(
    context: Flask,
    superuser: Any,
    claimable: Claimable,
    insert: str,
    owners: tuple[Any, Any],
    session_for: Callable[[Any], AbstractContextManager[Session]],
) -> None:
    """Statistics of a quiet hour say that no row is open, so the index of open rows seems to be the shortest way."""
    statement = insert.format(a=literal(owners[0]), b=literal(owners[1]))
    finish = f"UPDATE {claimable.table} SET status = 'delivered', next_at = NULL, finished_at = now()"
    insert_rows(superuser, claimable.table, f"{statement}; {finish}")
    with superuser, superuser.cursor() as cursor:
        cursor.execute(f"SET LOCAL session_replication_role = replica; {statement}", ())
    with session_for(owners[1]) as session:
        claim = outbox.claim(session, claimable, owners[1], limit=LIMIT)
    with collect_scans(context, claimable.table) as scans, session_for(owners[1]) as session:
        outbox.record(session, claim, [RowResult(row.id, "delivered") for row in claim.rows])
    assert sum(scan.rows_read for scan in scans) < 5 * LIMIT


def test_claim_does_not_read_deliveries_that_wait_for_a_retry(context: Flask, superuser: Any) -> None:
    """F2: twenty thousand deliveries of the endpoint are due in an hour, and one is due now."""
    later = _DELIVERIES.format(a=literal(ENDPOINT), b=literal(ENDPOINT)).replace("now() -", "now() + interval '1 h' +")
    insert_rows(superuser, "webhook_deliveries", later)
    with superuser, superuser.cursor() as cursor:
        cursor.execute(_ENDPOINT_WITH_DUE_DELIVERY)
    with collect_scans(context, "webhook_deliveries") as scans:
        assert len(claims.claim_deliveries((ACME, ENDPOINT), Capacity(LIMIT, LIMIT)).deliveries) == 1
    assert sum(scan.rows_read for scan in scans) < 5 * LIMIT
