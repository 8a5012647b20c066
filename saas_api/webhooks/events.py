"""Events: publishing, the list of an organization, and deletion after EVENT_RETENTION_DAYS."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import clock, ids
from saas_api.core.access import KeyMode
from saas_api.core.db import pagination, tenancy, types
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.db.prepared import Statement
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.jobs import queue
from saas_api.webhooks import event_types, payload
from saas_api.webhooks.event_types import TEST_EVENT_TYPE
from saas_api.webhooks.models import Event
from saas_api.webhooks.schemas import EndpointEventOut, TestEventOut

DRAIN_JOB = "webhooks.drain"
EVENT_RETENTION_DAYS = 30
_DELETE_BATCH_SIZE = 500

event_types.register(
    "webhook_endpoint.disabled",
    schema=EndpointEventOut,
    description="An endpoint was disabled, because it failed for days or answered 410. Sent to the others.",
    example={
        "id": "whe_018f3c6a9d2e7a018b4c5d6e7f801107",
        "url": "https://a.example/hook",
        "description": "Bookkeeping",
        "mode": "live",
        "event_types": ["invoice.paid"],
        "payload": "full",
        "status": "disabled_failing",
        "is_enabled": False,
        "created_at": "2026-01-12T08:30:00.000Z",
    },
)
event_types.register(
    TEST_EVENT_TYPE,
    schema=TestEventOut,
    description="Asked for by you, to try an endpoint.",
    example={"id": "tst_018f3c6a9d2e7a018b4c5d6e7f80ff06", "message": "It works."},
    object_name="test",
)

_IS_SUBSCRIBED = """(w.mode = e.mode AND (w.event_types IS NULL AND e.type <> ALL (CAST({explicit_only} AS text[]))
  OR e.type = ANY (w.event_types)))"""
IS_SUBSCRIBED_CLAUSE = _IS_SUBSCRIBED.format(explicit_only=":explicit_only")
"""SQL condition: endpoint `w` receives event `e`. Bind `explicit_only` to `event_types.explicit_only_names()`."""

STORES_EVENTS_CLAUSE = """EXISTS (SELECT FROM webhook_endpoints
  WHERE organization_id = {org} AND webhook_endpoints.mode = {mode} AND deleted_at IS NULL)"""
"""SQL condition: `{org}` has an endpoint of `{mode}`, be it disabled, so its events of that mode are stored."""


@dataclass(frozen=True)
class EventSubject:
    """The object of an event.

    version: rises with every change of the object; an event with the type, id and version of another is not stored
    """

    id: UUID
    version: int = 1


@dataclass(frozen=True)
class NewEvent:
    """An event to publish.

    event_type: such as "invoice.paid"
    data: event data, ready for JSON; see `event_types.dump_data`
    mode: "live" or "test", of the API key whose request caused the event
    """

    event_type: str
    subject: EventSubject
    data: Mapping[str, Any]
    mode: str = KeyMode.LIVE


def list_events(
    session: Session,
    organization_id: UUID,
    request: PageRequest,
    *,
    mode: str | None = None,
    event_type: str | None = None,
    object_id: UUID | None = None,
) -> Page:
    """Return a page of `Event`, newest first.

    mode: "live" or "test"; both when absent
    object_id: of the object that the event is about
    raises: ValidationFailed for a cursor of another list
    """
    statement = sa.select(Event).where(Event.organization_id == organization_id)
    if mode:
        statement = statement.where(Event.mode == mode)
    if event_type:
        statement = statement.where(Event.type == event_type)
    if object_id:
        statement = statement.where(is_about(object_id))
    return pagination.paginate(session, statement, Event.sequence.desc(), request=request)


def is_about(object_id: UUID) -> sa.ColumnElement[bool]:
    """Condition of the events of an object, which names every type because the index begins with it."""
    return sa.and_(Event.type.in_(event_types.names()), Event.subject_id == object_id)


_EXPLICIT_TYPES = sa.text("""SELECT DISTINCT unnest(event_types) FROM webhook_endpoints
  WHERE organization_id = :org AND mode = :mode AND status = 'enabled' AND deleted_at IS NULL""")


def list_explicit_types(session: Session, organization_id: UUID, mode: str) -> frozenset[str]:
    """Event types that an enabled endpoint of a mode names."""
    return frozenset(session.scalars(_EXPLICIT_TYPES, {"org": organization_id, "mode": mode}))


_PUBLISHING = sa.text("""SELECT DISTINCT organization_id FROM webhook_endpoints
  WHERE organization_id = ANY (:organizations) AND mode = 'live' AND deleted_at IS NULL""")


def list_publishing(session: SystemSession, organization_ids: Collection[UUID]) -> set[UUID]:
    """The organizations of some that have a live endpoint; `publish` stores no live events for the others."""
    return set(session.scalars(_PUBLISHING, {"organizations": list(organization_ids)}))


_PUBLISH = f"""
WITH e AS (
  INSERT INTO events (organization_id, id, type, mode, payload, subject_id, subject_version, created_at)
  SELECT {{org}}, v.id, v.type, v.mode, v.payload, v.subject_id, v.version, {{at}}
    FROM unnest({{owners}}CAST({{ids}} AS uuid[]), CAST({{types}} AS text[]), CAST({{modes}} AS text[]),
      CAST({{payloads}} AS text[]), CAST({{subjects}} AS uuid[]), CAST({{versions}} AS int[]))
      AS v ({{owner_column}}id, type, mode, payload, subject_id, version)
   WHERE {STORES_EVENTS_CLAUSE.format(org="{org}", mode="v.mode")}
  ON CONFLICT (organization_id, type, subject_id, subject_version) DO NOTHING
  RETURNING organization_id, id, type, mode),
d AS (
  INSERT INTO webhook_deliveries (organization_id, event_id, endpoint_id, next_at)
  SELECT e.organization_id, e.id, w.id, now() FROM e JOIN webhook_endpoints w USING (organization_id)
   WHERE w.status = 'enabled' AND w.deleted_at IS NULL
     AND {{is_subscribed}}
     FOR KEY SHARE OF w
  RETURNING 1)
SELECT count(*) FROM d"""
_NAMES = ("at", "ids", "types", "modes", "payloads", "subjects", "versions")
_PUBLISH_IN_SESSION = sa.text(
    _PUBLISH.format(
        org="v.owner",
        owners="CAST(:owners AS uuid[]), ",
        owner_column="owner, ",
        is_subscribed=IS_SUBSCRIBED_CLAUSE,
        **{name: f":{name}" for name in _NAMES},
    )
)
_PUBLISH_IN_BATCH = _PUBLISH.format(
    org="%(published_org)s",
    owners="",
    owner_column="",
    is_subscribed=_IS_SUBSCRIBED.format(explicit_only="%(published_explicit_only)s"),
    **{name: f"%(published_{name})s" for name in _NAMES},
)


def publish(
    session: Session, organization_id: UUID, event_type: str, subject: EventSubject, data: Mapping[str, Any]
) -> None:
    """Publish an event of live mode in the transaction of the change that it reports.

    An organization without an endpoint of a mode stores no events of it.
    event_type: such as "invoice.paid"
    data: event data, ready for JSON; see `event_types.dump_data`
    """
    publish_many(session, organization_id, [NewEvent(event_type, subject, data)])


def publish_many(session: Session, organization_id: UUID, new_events: Sequence[NewEvent]) -> None:
    """Publish several events of one organization in one statement."""
    publish_for_many(session, [(organization_id, new_event) for new_event in new_events])


def publish_for_many(session: Session, new_events: Sequence[tuple[UUID, NewEvent]]) -> None:
    """Publish several events in one statement, each with its organization; the session sees all of these."""
    if not new_events:
        return
    owners = types.uuid_array([organization_id for organization_id, _ in new_events])
    if session.scalar(_PUBLISH_IN_SESSION, {"owners": owners, **_values(new_events)}):
        queue.enqueue(session, DRAIN_JOB)


def publish_statement(organization_id: UUID, new_event: NewEvent) -> Statement:
    """Return the statement that publishes an event, for `engine.execute_batch`. The caller wakes DRAIN_JOB."""
    values = {"org": organization_id, **_values([(organization_id, new_event)])}
    return _PUBLISH_IN_BATCH, {f"published_{name}": value for name, value in values.items()}


def _values(new_events: Sequence[tuple[UUID, NewEvent]]) -> dict[str, Any]:
    now = clock.now()
    event_ids = ids.new_ids(len(new_events))
    return {
        "at": now,
        "ids": types.uuid_array(event_ids),
        "types": [event.event_type for _, event in new_events],
        "modes": [event.mode for _, event in new_events],
        "payloads": [
            payload.build_payload(event_id, event.event_type, now, organization_id, event.data, mode=event.mode)
            for event_id, (organization_id, event) in zip(event_ids, new_events, strict=True)
        ],
        "subjects": types.uuid_array([event.subject.id for _, event in new_events]),
        "versions": [event.subject.version for _, event in new_events],
        "explicit_only": event_types.explicit_only_names(),
    }


_DELETE_OLD_EVENTS = sa.text("""
DELETE FROM events WHERE ctid = ANY (ARRAY(
  SELECT e.ctid FROM events e WHERE e.created_at < :before AND NOT EXISTS (SELECT FROM webhook_deliveries d
    WHERE d.organization_id = e.organization_id AND d.event_id = e.id AND d.status IN ('queued', 'sending'))
  LIMIT :limit))
""")


def delete_old_events() -> int:
    """Delete events over EVENT_RETENTION_DAYS old with their deliveries, in transactions of its own.

    Events with a pending delivery stay.
    returns: number of deleted events
    """
    deleted = 0
    while True:
        values = {"before": clock.now() - timedelta(days=EVENT_RETENTION_DAYS), "limit": _DELETE_BATCH_SIZE}
        with tenancy.system_session("webhooks.clean") as session:
            result = session.execute(_DELETE_OLD_EVENTS, values)
            count = int(getattr(result, "rowcount", 0))
        deleted += count
        if count < _DELETE_BATCH_SIZE:
            return deleted
