"""Publish, publish_many, list_events, delete_old_events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core import clock, ids
from saas_api.core.db import pagination, tenancy
from saas_api.core.db.pagination import Page
from saas_api.core.jobs import queue
from saas_api.webhooks import (
    event_types,
    payload,
    pending_event_types,  # noqa: F401 - it registers types that their domains do not register yet
)
from saas_api.webhooks.event_types import TEST_EVENT_TYPE
from saas_api.webhooks.models import Event
from saas_api.webhooks.schemas import EndpointEventOut, TestEventOut

event_types.register(
    "webhook_endpoint.disabled",
    schema=EndpointEventOut,
    description="An endpoint was disabled, because it failed for days or answered 410. Sent to the others.",
    example={
        "id": "whe_018f3c6a9d2e7a018b4c5d6e7f801107",
        "status": "disabled_failing",
        "url": "https://a.example/hook",
    },
)
event_types.register(
    TEST_EVENT_TYPE,
    schema=TestEventOut,
    description="Asked for by you, to try an endpoint.",
    example={"id": "tst_018f3c6a9d2e7a018b4c5d6e7f80ff06", "message": "It works."},
    object_name="test",
)


def list_events(session: Session, organization_id: UUID, query: Mapping[str, Any]) -> Page:
    """A page of events, newest first.

    query: `event_type`, `limit`, `cursor`
    raises: Invalid on a cursor that is none
    """
    statement = sa.select(Event).where(Event.organization_id == organization_id)
    if query["event_type"]:
        statement = statement.where(Event.type == query["event_type"])
    if query["cursor"]:
        statement = statement.where(Event.sequence < pagination.decode_sequence(query["cursor"]))
    rows = session.scalars(statement.order_by(Event.sequence.desc()).limit(query["limit"] + 1)).all()
    kept = rows[: query["limit"]]
    following = pagination.encode_cursor(str(kept[-1].sequence)) if len(rows) > query["limit"] else None
    return Page(kept, following, query["limit"])


EVENT_RETENTION_DAYS = 30
_OLD = sa.text("""
DELETE FROM events WHERE ctid = ANY (ARRAY(
  SELECT e.ctid FROM events e WHERE e.created_at < :before AND NOT EXISTS (SELECT FROM webhook_deliveries d
    WHERE d.organization_id = e.organization_id AND d.event_id = e.id AND d.status IN ('queued', 'sending'))
  LIMIT 500))
""")


def delete_old_events() -> int:
    """Delete events of more than thirty days ago with their deliveries, except what is still on its way.

    returns: how many events
    """
    deleted = 0
    while True:
        with tenancy.system_session("webhooks.clean") as session:
            result = session.execute(_OLD, {"before": clock.now() - timedelta(days=EVENT_RETENTION_DAYS)})
            count = int(getattr(result, "rowcount", 0))
        deleted += count
        if count < 500:
            return deleted


DRAIN_JOB = "webhooks.drain"
_SUBSCRIBES = (
    "(w.event_types IS NULL AND e.type <> ALL (CAST({explicit_only} AS text[])) OR e.type = ANY (w.event_types))"
)
SUBSCRIBES_CLAUSE = _SUBSCRIBES.format(explicit_only=":explicit_only")
"""SQL condition: endpoint `w` receives event `e`. Bind `explicit_only` to `event_types.explicit_only_names()`."""

_PUBLISH = """
WITH e AS (
  INSERT INTO events (organization_id, id, type, payload, subject_id, subject_version, created_at)
  SELECT {org}, v.id, v.type, v.payload, v.subject_id, v.version, {at}
    FROM unnest(CAST({ids} AS uuid[]), CAST({types} AS text[]), CAST({payloads} AS text[]),
      CAST({subjects} AS uuid[]), CAST({versions} AS int[])) AS v (id, type, payload, subject_id, version)
   WHERE EXISTS (SELECT FROM webhook_endpoints WHERE organization_id = {org} AND deleted_at IS NULL)
  ON CONFLICT (organization_id, type, subject_id, subject_version) DO NOTHING RETURNING organization_id, id, type),
d AS (
  INSERT INTO webhook_deliveries (organization_id, event_id, endpoint_id, next_at)
  SELECT e.organization_id, e.id, w.id, now() FROM e JOIN webhook_endpoints w USING (organization_id)
   WHERE w.status = 'enabled' AND w.deleted_at IS NULL
     AND {subscribes}
     FOR KEY SHARE OF w
  RETURNING 1)
SELECT count(*) FROM d"""
_NAMES = ("org", "at", "ids", "types", "payloads", "subjects", "versions")
_IN_SESSION = text(_PUBLISH.format(subscribes=SUBSCRIBES_CLAUSE, **{name: f":{name}" for name in _NAMES}))
_IN_BATCH = _PUBLISH.format(
    subscribes=_SUBSCRIBES.format(explicit_only="%(news_explicit_only)s"),
    **{name: f"%(news_{name})s" for name in _NAMES},
)
_HAS_EXPLICIT_SUBSCRIBER = text("""SELECT EXISTS (SELECT FROM webhook_endpoints WHERE organization_id = :org
  AND status = 'enabled' AND deleted_at IS NULL AND :type = ANY (event_types))""")


@dataclass(frozen=True)
class EventSubject:
    """What an event is about.

    version: rises with every change; the same type, id and version is one event, however often it is published
    """

    id: UUID
    version: int = 1


@dataclass(frozen=True)
class NewEvent:
    """An event to be.

    kind: such as "invoice.paid"
    data: JSON-ready, the object as its GET shows it
    mode: of the key that led to it
    """

    kind: str
    subject: EventSubject
    data: Mapping[str, Any]
    mode: str = "live"


def publish(session: Session, organization_id: UUID, kind: str, subject: EventSubject, data: Mapping[str, Any]) -> None:
    """Report that something happened, in the transaction in which it does.

    Without an endpoint in the organization nothing is kept.
    kind: of the event, such as "invoice.paid"
    data: JSON-ready, the object as its GET shows it
    """
    publish_many(session, organization_id, [NewEvent(kind, subject, data)])


def publish_many(session: Session, organization_id: UUID, news: Sequence[NewEvent]) -> None:
    """Report several things of one organization in one statement."""
    if news and session.scalar(_IN_SESSION, _values(organization_id, news)):
        queue.enqueue(session, DRAIN_JOB)


def publish_statement(organization_id: UUID, news: NewEvent) -> tuple[str, dict[str, Any]]:
    """One event as a statement of `core.db.execute_once`; the caller wakes DRAIN."""
    return _IN_BATCH, {f"news_{name}": value for name, value in _values(organization_id, [news]).items()}


def has_explicit_subscriber(session: Session, organization_id: UUID, kind: str) -> bool:
    """Whether an endpoint asks for a kind of event by its name."""
    return bool(session.scalar(_HAS_EXPLICIT_SUBSCRIBER, {"org": organization_id, "type": kind}))


def _values(organization_id: UUID, news: Sequence[NewEvent]) -> dict[str, Any]:
    at = clock.now()
    event_ids = [ids.new_id() for _ in news]
    return {
        "org": organization_id,
        "at": at,
        "ids": event_ids,
        "types": [one.kind for one in news],
        "payloads": [
            payload.build_payload(event_id, one.kind, at, organization_id, one.data, mode=one.mode)
            for event_id, one in zip(event_ids, news, strict=True)
        ],
        "subjects": [one.subject.id for one in news],
        "versions": [one.subject.version for one in news],
        "explicit_only": event_types.explicit_only_names(),
    }
