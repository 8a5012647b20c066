"""When keys were last used: remembered in the process, written in one statement, no round trip a request."""

import threading
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from saas_api.core import clock
from saas_api.core.app import Repeated
from saas_api.core.tenancy import as_system

SEEN_SECONDS = 10

_seen: dict[tuple[UUID, UUID], datetime] = {}
_seen_lock = threading.Lock()


def touch(organization_id: UUID, key_id: UUID) -> None:
    """Remember that a key was used; costs no round trip, is written within ten seconds, and a kill may lose it."""
    with _seen_lock:
        _seen[organization_id, key_id] = clock.now()
    _writer.ensure_started()


def write_seen() -> None:
    """Write when keys were last used, in one statement."""
    with _seen_lock:
        seen = dict(_seen)
        _seen.clear()
    if not seen:
        return
    values = {
        "organizations": [organization_id for organization_id, _ in seen],
        "keys": [key_id for _, key_id in seen],
        "times": list(seen.values()),
    }
    with as_system("api_keys.seen") as session:
        session.execute(_LOCK_SEEN, values)
        session.execute(_WRITE_SEEN, values)


_SEEN = """unnest(CAST(:organizations AS uuid[]), CAST(:keys AS uuid[]), CAST(:times AS timestamptz[]))
  AS v (organization_id, id, at)"""
# One order of rows: two processes never deadlock.
_LOCK_SEEN = sa.text(f"""SELECT FROM api_keys k JOIN {_SEEN} USING (organization_id, id)
  ORDER BY k.organization_id, k.id FOR NO KEY UPDATE OF k""")
_WRITE_SEEN = sa.text(f"""UPDATE api_keys k SET last_used_at = v.at FROM {_SEEN}
  WHERE k.organization_id = v.organization_id AND k.id = v.id AND coalesce(k.last_used_at, '-infinity') < v.at""")
_writer = Repeated(SEEN_SECONDS, write_seen)
