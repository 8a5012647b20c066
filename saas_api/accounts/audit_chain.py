"""The hash chain of the audit log: a trigger extends it in each commit, and this module computes it again.

The hash of an event covers the hash before it, so a change, a removal or an insertion shows in every later one.
The owner's login can write a whole new chain; a head that was kept elsewhere reveals it.
"""

import re
from dataclasses import dataclass

import sqlalchemy as sa

from saas_api.core.db.tenancy import SystemSession

HEAD_FORM = re.compile(r"([1-9][0-9]{0,18}):([0-9a-f]{64})")
"""Position and hash of a row of the chain, as `ChainReport.head` has them."""
_FIRST_BROKEN = sa.text("""
WITH computed AS (
  SELECT c.position, c.event_id, e.id AS found_id, c.hash, row_number() OVER (ORDER BY c.position) AS number,
    sha256(coalesce(lag(c.hash) OVER (ORDER BY c.position), '') || convert_to(jsonb_build_array(e.id,
      e.organization_id, e.actor_type, e.actor_id, e.on_behalf_of, e.action, e.target_type, e.target_id, e.data,
      e.reason, e.request_id, e.ip, extract(epoch FROM e.at))::text, 'UTF8')) AS expected
    FROM audit_chain c LEFT JOIN audit_events e ON e.id = c.event_id)
SELECT position, number, event_id, found_id FROM computed
 WHERE position <> number OR found_id IS NULL OR hash <> expected ORDER BY position LIMIT 1
""")
_UNCHAINED = sa.text("""
SELECT id FROM audit_events e WHERE NOT EXISTS (SELECT FROM audit_chain c WHERE c.event_id = e.id) ORDER BY id LIMIT 1
""")
_HEAD = sa.text("SELECT position, encode(hash, 'hex') AS hash FROM audit_chain ORDER BY position DESC LIMIT 1")
_HASH_AT = sa.text("SELECT encode(hash, 'hex') FROM audit_chain WHERE position = :position")


@dataclass(frozen=True)
class ChainReport:
    """Result of a verification.

    events: number of events in the chain
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
    head = session.execute(_HEAD).first()
    return ChainReport(
        events=head.position if head else 0,
        head=f"{head.position}:{head.hash}" if head else None,
        problem=_find_problem(session, known_head),
    )


def _find_problem(session: SystemSession, known_head: str | None) -> str | None:
    broken = session.execute(_FIRST_BROKEN).first()
    if broken:
        if broken.position != broken.number:
            return f"Position {broken.number} of the chain is missing."
        if broken.found_id is None:
            return f"Event {broken.event_id} at position {broken.position} was removed."
        return f"Event {broken.event_id} at position {broken.position} was changed."
    unchained = session.scalar(_UNCHAINED)
    if unchained is not None:
        return f"Event {unchained} is not in the chain."
    position, _, known_hash = (known_head or "").partition(":")
    if known_head and session.scalar(_HASH_AT, {"position": int(position)}) != known_hash:
        return f"The chain no longer has the known head at position {position}: it was cut off or replaced."
    return None
