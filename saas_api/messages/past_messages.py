"""Messages of past months, in `past_messages`, which has a partition for each month.

Finished messages are moved there when they are MOVED_AFTER old, so workers and new lists read the small table
`messages` alone. The view `all_messages` has both; a message is always in one of them.
"""

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as day_time
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.faults import fault_point
from saas_api.messages.models import PAST_MESSAGES, Message

MOVED_AFTER = timedelta(days=31)
NOT_MOVED_AFTER = MOVED_AFTER - timedelta(days=1)
"""Younger messages are in `messages`; the day between leaves room for clocks of hosts that differ."""
SMALL_PART = timedelta(days=60)
BATCH_SIZE = 2_000

_ALL_MESSAGES = PAST_MESSAGES.to_metadata(sa.MetaData(), name="all_messages")
# Named as the table of new ones, so that cursors of lists are the same.
AnyMessage = aliased(Message, _ALL_MESSAGES.alias("messages"), adapt_on_names=True)
"""The model, read from both tables."""

_LIST_ORGANIZATIONS = sa.text("""
SELECT o.id FROM organizations o CROSS JOIN LATERAL (SELECT FROM messages m WHERE m.organization_id = o.id
  AND m.accepted_at >= :since AND m.accepted_at < :before AND m.finished_at IS NOT NULL LIMIT 1) m""")
_COUNT_ORGANIZATIONS = sa.text("""
SELECT count(*) FROM organizations o CROSS JOIN LATERAL (SELECT FROM messages m WHERE m.organization_id = o.id
  AND m.accepted_at >= :since AND m.accepted_at < :before LIMIT 1) m""")
_MOVE = sa.text("""
WITH old AS (SELECT id FROM messages WHERE organization_id = :organization_id
  AND accepted_at >= :since AND accepted_at < :before AND finished_at IS NOT NULL
  ORDER BY accepted_at, id LIMIT :limit FOR UPDATE SKIP LOCKED),
moved AS (DELETE FROM messages m USING old WHERE m.organization_id = :organization_id AND m.id = old.id RETURNING m.*),
past AS (INSERT INTO past_messages SELECT * FROM moved RETURNING accepted_at)
SELECT count(*) AS moved, max(accepted_at) AS newest FROM past""")


def may_reach(since: datetime | None) -> bool:
    """Whether messages that were accepted since an instant, or ever, may be in `past_messages`."""
    return since is None or since < clock.now() - NOT_MOVED_AFTER


def list_parts(since: datetime | None, until: datetime | None) -> Iterator[tuple[type[Message], datetime | None]]:
    """How to read a list of messages, the newest first: the models of its parts, and the instants that they begin at.

    Each part has every message that was accepted since then, so when it fills a page, the next ones are not needed.
    Plans take time for each partition that a statement may read, so the first parts need none or few.
    since, until: bounds of the list, the second one excluded
    """
    newest = clock.now() - NOT_MOVED_AFTER
    if until is None or until > newest:
        yield Message, newest if since is None else max(newest, since)
        if not may_reach(since):
            return
    elif since is None or since < until - SMALL_PART:
        yield AnyMessage, until - SMALL_PART
    yield AnyMessage, since


def move_finished(at_most_seconds: float) -> int:
    """Move finished messages that are MOVED_AFTER old, a batch in each transaction.

    returns: number of moved messages; when the time was up there are more
    """
    deadline, moved = time.monotonic() + at_most_seconds, 0
    before = clock.now() - MOVED_AFTER
    with tenancy.system_session("messages.past") as session:
        tenancy.allow_long_statements(session)
        values = {"since": datetime.min.replace(tzinfo=UTC), "before": before}
        organization_ids = session.scalars(_LIST_ORGANIZATIONS, values).all()
    for organization_id in organization_ids:
        moved += _move_of(organization_id, before, deadline)
    return moved


def find_obstacles(session: SystemSession, month: date, at: datetime) -> list[str]:  # noqa: ARG001 - archives of other tables ask by it
    """Why the messages of a month cannot be archived, a sentence each; none when they can.

    month: its first day
    """
    since = datetime.combine(month, day_time(), UTC)
    before = (since + timedelta(days=31)).replace(day=1)
    count = session.scalar(_COUNT_ORGANIZATIONS, {"since": since, "before": before})
    if not count:
        return []
    return [f"{count} organizations have messages of it in messages, which are moved when they are 31 days old."]


def _move_of(organization_id: UUID, before: datetime, deadline: float) -> int:
    since, moved = datetime.min.replace(tzinfo=UTC), 0
    values = {"organization_id": organization_id, "before": before, "limit": BATCH_SIZE}
    while time.monotonic() < deadline:
        with tenancy.system_session("messages.past") as session:
            batch = session.execute(_MOVE, {**values, "since": since}).one()
            fault_point("messages.before_move_commit")
        moved += batch.moved
        if batch.moved < BATCH_SIZE:
            break
        since = batch.newest  # so that no batch reads again what those before it have deleted
    return moved
