"""Lists of messages, and whose messages are due."""

from collections.abc import Mapping, Sequence
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

    query: `status`, `type`, `mode`, `to`, `limit`, `cursor`; `key` where one key's are meant
    since, until: instants, the second one excluded
    raises: Invalid on a cursor that is none
    """
    conditions = _wanted(organization_id, query, since, until)
    if query["cursor"]:
        conditions.append(sa.tuple_(Message.accepted_at, Message.id) < _position(query["cursor"]))
    statement = _newest_first(sa.select(Message).where(*conditions))
    rows = session.scalars(statement.limit(query["limit"] + 1)).all()
    kept = rows[: query["limit"]]
    following = None
    if len(rows) > query["limit"]:
        following = encode_cursor(kept[-1].accepted_at.isoformat(), kept[-1].id.hex)
    return Page(kept, following, query["limit"])


def table(
    session: Session,
    organization_id: UUID,
    query: Mapping[str, Any],
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> Sequence[Any]:
    """Messages as rows of a table, newest first, without their texts.

    query: as of `page`; `cursor` and `limit` are not looked at
    returns: rows with the columns' names
    """
    columns = [column for column in Message.__table__.columns if column.name not in ("body", "lease_token")]
    statement = sa.select(*columns).where(*_wanted(organization_id, query, since, until))
    return session.execute(_newest_first(statement).limit(limit)).all()


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


def _wanted(
    organization_id: UUID, query: Mapping[str, Any], since: datetime | None, until: datetime | None
) -> list[sa.ColumnElement[bool]]:
    wanted = {
        Message.status: query["status"],
        Message.channel: query["type"],
        Message.mode: query["mode"],
        Message.recipient: query["to"],
        Message.api_key_id: query.get("key"),
    }
    conditions: list[sa.ColumnElement[bool]] = [Message.organization_id == organization_id]
    conditions += [column == value for column, value in wanted.items() if value is not None]
    if since is not None:
        conditions.append(Message.accepted_at >= since)
    if until is not None:
        conditions.append(Message.accepted_at < until)
    return conditions


def _newest_first(statement: sa.Select[Any]) -> sa.Select[Any]:
    return statement.order_by(Message.accepted_at.desc(), Message.id.desc())


def _position(cursor: str) -> tuple[datetime, UUID]:
    values = decode_cursor(cursor)
    try:
        at, message_id = values
        return datetime.fromisoformat(at), UUID(hex=message_id)
    except ValueError as cause:
        raise Invalid.at("cursor", "Not a cursor of this list.") from cause
