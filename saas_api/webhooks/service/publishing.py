"""Publishing events: rows of the transaction that they report, one delivery for each endpoint that wants them.

An endpoint that is just being disabled or deleted is waited for, so that nothing is queued for it afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.core import clock
from saas_api.core.ids import new_id
from saas_api.core.queue import enqueue
from saas_api.webhooks import rules

DRAIN = "webhooks.drain"
_BY_NAME = ", ".join(f"'{kind}'" for kind in sorted(rules.ONLY_BY_NAME))
WANTS = f"(w.event_types IS NULL AND e.type NOT IN ({_BY_NAME}) OR e.type = ANY (w.event_types))"
"""Whether endpoint `w` wants event `e`, as SQL."""

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
     AND {wants}
     FOR KEY SHARE OF w
  RETURNING 1)
SELECT count(*) FROM d"""
_NAMES = ("org", "at", "ids", "types", "payloads", "subjects", "versions")
_IN_SESSION = text(_PUBLISH.format(wants=WANTS, **{name: f":{name}" for name in _NAMES}))
_IN_BATCH = _PUBLISH.format(wants=WANTS, **{name: f"%(news_{name})s" for name in _NAMES})
_IS_NAMED = text("""SELECT EXISTS (SELECT FROM webhook_endpoints WHERE organization_id = :org
  AND status = 'enabled' AND deleted_at IS NULL AND :type = ANY (event_types))""")


@dataclass(frozen=True)
class Subject:
    """What an event is about.

    version: rises with every change; the same type, id and version is one event, however often it is published
    """

    id: UUID
    version: int = 1


@dataclass(frozen=True)
class News:
    """An event to be.

    kind: such as "invoice.paid"
    data: JSON-ready, the object as its GET shows it
    mode: of the key that led to it
    """

    kind: str
    subject: Subject
    data: Mapping[str, Any]
    mode: str = "live"


def publish(session: Session, organization_id: UUID, kind: str, subject: Subject, data: Mapping[str, Any]) -> None:
    """Report that something happened, in the transaction in which it does.

    Without an endpoint in the organization nothing is kept.
    kind: of the event, such as "invoice.paid"
    data: JSON-ready, the object as its GET shows it
    """
    publish_many(session, organization_id, [News(kind, subject, data)])


def publish_many(session: Session, organization_id: UUID, news: Sequence[News]) -> None:
    """Report several things of one organization in one statement."""
    if news and session.scalar(_IN_SESSION, _values(organization_id, news)):
        enqueue(session, DRAIN)


def publish_statement(organization_id: UUID, news: News) -> tuple[str, dict[str, Any]]:
    """One event as a statement of `core.db.execute_once`; the caller wakes DRAIN."""
    return _IN_BATCH, {f"news_{name}": value for name, value in _values(organization_id, [news]).items()}


def is_named(session: Session, organization_id: UUID, kind: str) -> bool:
    """Whether an endpoint asks for a kind of event by its name."""
    return bool(session.scalar(_IS_NAMED, {"org": organization_id, "type": kind}))


def _values(organization_id: UUID, news: Sequence[News]) -> dict[str, Any]:
    at = clock.now()
    ids = [new_id() for _ in news]
    return {
        "org": organization_id,
        "at": at,
        "ids": ids,
        "types": [one.kind for one in news],
        "payloads": [
            rules.payload(event_id, one.kind, at, organization_id, one.data, mode=one.mode)
            for event_id, one in zip(ids, news, strict=True)
        ],
        "subjects": [one.subject.id for one in news],
        "versions": [one.subject.version for one in news],
    }
