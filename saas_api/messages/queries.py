"""Lists of messages, and whose messages are due."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core.errors import Invalid
from saas_api.core.http import Page, decode_cursor, encode_cursor
from saas_api.core.lease import SOON_SECONDS, Due
from saas_api.messages.models import Message

AT_MOST_ORGANIZATIONS = 200


def page(
    session: Session, organization_id: UUID, query: Mapping[str, Any], since: datetime | None, until: datetime | None
) -> Page:
    """A page of messages, newest first.

    query: `status`, `type`, `mode`, `to`, `limit`, `cursor`
    since, until: instants, the second one excluded
    raises: Invalid on a cursor that is none
    """
    wanted = {"status": query["status"], "channel": query["type"], "mode": query["mode"], "recipient": query["to"]}
    statement = sa.select(Message).where(Message.organization_id == organization_id)
    statement = statement.filter_by(**{name: value for name, value in wanted.items() if value is not None})
    if since is not None:
        statement = statement.where(Message.accepted_at >= since)
    if until is not None:
        statement = statement.where(Message.accepted_at < until)
    if query["cursor"]:
        statement = statement.where(sa.tuple_(Message.accepted_at, Message.id) < _position(query["cursor"]))
    newest_first = statement.order_by(Message.accepted_at.desc(), Message.id.desc())
    rows = session.scalars(newest_first.limit(query["limit"] + 1)).all()
    kept = rows[: query["limit"]]
    following = None
    if len(rows) > query["limit"]:
        following = encode_cursor(kept[-1].accepted_at.isoformat(), kept[-1].id.hex)
    return Page(kept, following, query["limit"])


# A loose index scan: one step of the index an organization, however many rows each has.
_DUE = sa.text("""
WITH RECURSIVE o AS (
  (SELECT organization_id FROM messages WHERE status IN ('queued', 'sending') ORDER BY organization_id LIMIT 1)
  UNION ALL
  SELECT (SELECT m.organization_id FROM messages m WHERE m.status IN ('queued', 'sending')
            AND m.organization_id > o.organization_id ORDER BY m.organization_id LIMIT 1)
    FROM o WHERE o.organization_id IS NOT NULL)
SELECT o.organization_id, extract(epoch FROM first.next_at - now())::float8 AS seconds
  FROM o CROSS JOIN LATERAL (SELECT m.next_at FROM messages m WHERE m.organization_id = o.organization_id
    AND m.status IN ('queued', 'sending') ORDER BY m.next_at LIMIT 1) first
 WHERE o.organization_id IS NOT NULL AND first.next_at < now() + make_interval(secs => :soon) ORDER BY 2 LIMIT :limit
""")


def due(session: Session) -> Due[UUID]:
    """Organizations with a message that is due, the longest waiting first.

    session: of the system
    """
    rows = session.execute(_DUE, {"soon": SOON_SECONDS, "limit": AT_MOST_ORGANIZATIONS}).all()
    later = [row.seconds for row in rows if row.seconds > 0]
    return Due([row.organization_id for row in rows if row.seconds <= 0], min(later, default=None))


def _position(cursor: str) -> tuple[datetime, UUID]:
    values = decode_cursor(cursor)
    try:
        at, message_id = values
        return datetime.fromisoformat(at), UUID(hex=message_id)
    except ValueError as cause:
        raise Invalid.at("cursor", "Not a cursor of this list.") from cause
