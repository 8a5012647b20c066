"""When API keys were last used: noted in memory by each request, written by a thread."""

import threading
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from saas_api.core import clock
from saas_api.core.db import cells, tenancy
from saas_api.core.periodic_thread import PeriodicThread

FLUSH_SECONDS = 10
_USES = """unnest(CAST(:organizations AS uuid[]), CAST(:keys AS uuid[]), CAST(:times AS timestamptz[]))
  AS v (organization_id, id, at)"""
# Every process locks in the same order, so that two flushes do not deadlock.
_LOCK_USED_KEYS = sa.text(f"""SELECT FROM api_keys k JOIN {_USES} USING (organization_id, id)
  ORDER BY k.organization_id, k.id FOR NO KEY UPDATE OF k""")
_SET_LAST_USED = sa.text(f"""UPDATE api_keys k SET last_used_at = v.at FROM {_USES}
  WHERE k.organization_id = v.organization_id AND k.id = v.id AND coalesce(k.last_used_at, '-infinity') < v.at""")
_pending_uses: dict[tuple[UUID, UUID], datetime] = {}
_pending_lock = threading.Lock()


def mark_used(organization_id: UUID, key_id: UUID) -> None:
    """Note in memory that a key was used. A thread writes it within FLUSH_SECONDS; a killed process loses it."""
    with _pending_lock:
        _pending_uses[organization_id, key_id] = clock.now()
    _flush_thread.ensure_started()


def flush_last_used() -> None:
    """Write when keys were last used, in a transaction of its own."""
    with _pending_lock:
        uses = dict(_pending_uses)
        _pending_uses.clear()
    if not uses:
        return

    def write_in_cell(owners: set[UUID]) -> None:
        used = [
            (organization_id, key_id, at) for (organization_id, key_id), at in uses.items() if organization_id in owners
        ]
        values = dict(zip(("organizations", "keys", "times"), map(list, zip(*used, strict=True)), strict=True))
        with tenancy.system_session("api_keys.seen") as session:
            session.execute(_LOCK_USED_KEYS, values)
            session.execute(_SET_LAST_USED, values)

    cells.run_for_owners({organization_id for organization_id, _ in uses}, write_in_cell)


_flush_thread = PeriodicThread(FLUSH_SECONDS, flush_last_used)
