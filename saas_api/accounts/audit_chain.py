"""The hash chain of the audit log: a trigger extends it in each commit, and this module computes it again.

The hash of an event covers the hash before it, so a change, a removal or an insertion shows in every later one.
The owner's login can write a whole new chain; a head that was kept elsewhere reveals it.

Events expire from the oldest end only. The chain keeps position and hash of the last expired event, its anchor, and an
event in the chain records them.

Months of events can be archived. Their positions and hashes stay, and an event in the chain records for each archived
month how many there are, the last one, and the checksum of the file. An event is in the partition of the month in which
it was recorded; at the turn of a month the trigger moves it to that of the event before it, so a month is one piece of
the chain.
"""

import re
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa

from saas_api.accounts import audit
from saas_api.core import clock
from saas_api.core.db.tenancy import SystemSession

HEAD_FORM = re.compile(r"([1-9][0-9]{0,18}):([0-9a-f]{64})")
"""Position and hash of a row of the chain, as `ChainReport.head` has them."""
EXPIRED_ACTION, ARCHIVED_ACTION = "audit_log.expired", "audit_log.archived"
MIN_DAYS = 90
"""Younger events are neither deleted nor archived; PostgreSQL refuses to delete them, too."""
_MAX_DELETED = 10_000
# What was archived is recorded anew with each month, and so is the anchor: its own record may be in an archived month.
_ANCHOR = f"""
SELECT c.position, c.position || ':' || encode(c.hash, 'hex') AS head FROM audit_chain c
 WHERE c.position = (SELECT min(position) FROM audit_chain)
   AND NOT EXISTS (SELECT FROM audit_events e WHERE e.id = c.event_id AND e.month = c.month)
   AND EXISTS (SELECT FROM audit_events e WHERE e.action IN ('{EXPIRED_ACTION}', '{ARCHIVED_ACTION}')
     AND e.organization_id IS NULL AND e.data ->> 'head' = c.position || ':' || encode(c.hash, 'hex'))
"""
_ARCHIVED_MONTHS = """
SELECT c.month, a.sha256, count(*) AS events,
  max(c.position) || ':' || encode((array_agg(c.hash ORDER BY c.position DESC))[1], 'hex') AS head
FROM audit_chain c JOIN archived_partitions a ON a.table_name = 'audit_events' AND a.month = c.month
GROUP BY c.month, a.sha256
"""
_FIRST_BROKEN = sa.text(f"""
WITH anchor AS ({_ANCHOR}), recorded AS (
  SELECT data -> 'months' AS months FROM audit_events
   WHERE action = '{ARCHIVED_ACTION}' AND organization_id IS NULL ORDER BY id DESC LIMIT 1),
archived AS (
  SELECT m.month FROM ({_ARCHIVED_MONTHS}) m CROSS JOIN recorded r
    CROSS JOIN LATERAL (SELECT r.months -> to_char(m.month, 'YYYY-MM')) known (value)
   WHERE known.value ->> 'head' = m.head AND known.value ->> 'sha256' = m.sha256
     AND (known.value ->> 'events')::bigint >= m.events),
computed AS (
  SELECT c.position, c.event_id, e.id AS found_id, c.hash, c.month, c.month < lag(c.month) OVER w AS is_earlier,
    row_number() OVER w + coalesce((SELECT position - 1 FROM anchor), 0) AS number,
    sha256(coalesce(lag(c.hash) OVER w, '') || convert_to(jsonb_build_array(e.id,
      e.organization_id, e.actor_type, e.actor_id, e.on_behalf_of, e.action, e.target_type, e.target_id, e.data,
      e.reason, e.request_id, e.ip, extract(epoch FROM e.at))::text, 'UTF8')) AS expected
    FROM audit_chain c LEFT JOIN audit_events e ON e.id = c.event_id AND e.month = c.month
  WINDOW w AS (ORDER BY c.position))
SELECT position, number, event_id, found_id, is_earlier FROM computed
 WHERE position <> number OR is_earlier
    OR found_id IS NOT NULL AND hash <> expected
    OR found_id IS NULL AND position IS DISTINCT FROM (SELECT position FROM anchor)
      AND month NOT IN (SELECT month FROM archived)
 ORDER BY position LIMIT 1
""")
_UNCHAINED = sa.text("""
SELECT id FROM audit_events e WHERE NOT EXISTS (SELECT FROM audit_chain c WHERE c.event_id = e.id) ORDER BY id LIMIT 1
""")
_HEAD = sa.text("SELECT position, encode(hash, 'hex') AS hash FROM audit_chain ORDER BY position DESC LIMIT 1")
_LAST_EXPIRED = sa.text(_ANCHOR)
_LAST_OF_MONTH = sa.text("SELECT max(at) FROM audit_events WHERE month = :month")
_RECORD_ARCHIVED = sa.text(f"""
INSERT INTO audit_events (actor_type, action, target_type, target_id, data, at)
SELECT 'system', '{ARCHIVED_ACTION}', 'audit_log', 'events',
  jsonb_build_object('head', (SELECT head FROM ({_ANCHOR}) anchor),
  'months', (SELECT jsonb_object_agg(to_char(m.month, 'YYYY-MM'),
      jsonb_build_object('events', m.events, 'head', m.head, 'sha256', m.sha256))
    FROM ({_ARCHIVED_MONTHS}) m)), now()""")
_DELETE_EXPIRED = sa.text("SELECT deleted, head FROM delete_expired_audit_events(:keep_days, :max_events)")
_HASH_AT = sa.text("SELECT encode(hash, 'hex') FROM audit_chain WHERE position = :position")


@dataclass(frozen=True)
class ChainReport:
    """Result of a verification.

    events: number of events in the chain, with archived ones and without expired ones
    head: `position:hash` of the newest event; None when there is none
    problem: the first one that was found, as a sentence; None when the chain is intact
    """

    events: int
    head: str | None
    problem: str | None


def verify_chain(session: SystemSession, known_head: str | None = None) -> ChainReport:
    """Compute the chain again from the stored events.

    It reads the whole log, with no limit on the time that it takes.
    known_head: `head` of an earlier report, in the form of HEAD_FORM, which must still be in the chain
    """
    session.execute(sa.text("SET LOCAL statement_timeout = 0"))
    head, expired = session.execute(_HEAD).first(), session.scalar(_LAST_EXPIRED) or 0
    return ChainReport(
        events=head.position - expired if head else 0,
        head=f"{head.position}:{head.hash}" if head else None,
        problem=_find_problem(session, known_head, expired),
    )


def delete_expired_events(session: SystemSession, keep_days: int) -> int:
    """Delete months that have expired whole, or else the oldest events, and record the anchor that they leave.

    At most _MAX_DELETED of a month that has expired in part.
    keep_days: 90 or more; PostgreSQL refuses less
    returns: number of deleted events; 0 when none has expired
    """
    values = {"keep_days": keep_days, "max_events": _MAX_DELETED}
    row = session.execute(_DELETE_EXPIRED, values).first()
    if row is None:
        return 0
    data = {"events": row.deleted, "head": row.head, "retention_days": keep_days}
    audit.record_event(session, None, audit.SYSTEM_ACTOR, EXPIRED_ACTION, ("audit_log", "events"), data)
    return int(row.deleted)


def find_obstacles(session: SystemSession, month: date, at: datetime) -> list[str]:
    """Why the events of a month cannot be archived, a sentence each; none when they can.

    month: its first day
    """
    last_at = session.scalar(_LAST_OF_MONTH, {"month": month})
    if last_at and (at - last_at).days < MIN_DAYS:
        return [f"Events are kept here for {MIN_DAYS} days; its last one is of {clock.format_rfc3339(last_at)}."]
    problem = verify_chain(session).problem
    return [f"The chain of the log is broken. {problem}"] if problem else []


def record_archive(connection: sa.Connection) -> None:
    """Record in the log which months of it are archived, in the transaction that drops one.

    connection: of the role saas_system
    """
    connection.execute(_RECORD_ARCHIVED)


def _find_problem(session: SystemSession, known_head: str | None, expired: int) -> str | None:
    broken = session.execute(_FIRST_BROKEN).first()
    if broken:
        if broken.position != broken.number:
            return f"Position {broken.number} of the chain is missing."
        if broken.is_earlier:
            return f"Position {broken.position} of the chain is of a month before that of the position before it."
        if broken.found_id is None:
            return f"Event {broken.event_id} at position {broken.position} was removed."
        return f"Event {broken.event_id} at position {broken.position} was changed."
    unchained = session.scalar(_UNCHAINED)
    if unchained is not None:
        return f"Event {unchained} is not in the chain."
    return _find_problem_of_head(session, known_head, expired) if known_head else None


def _find_problem_of_head(session: SystemSession, known_head: str, expired: int) -> str | None:
    position, _, known_hash = known_head.partition(":")
    if int(position) < expired:
        return f"The known head at position {position} has expired with the events up to {expired}; keep newer heads."
    if session.scalar(_HASH_AT, {"position": int(position)}) != known_hash:
        return f"The chain no longer has the known head at position {position}: it was cut off or replaced."
    return None
