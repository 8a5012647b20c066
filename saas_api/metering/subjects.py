"""The customers that services name as subjects of usage: by organization, API key or external id."""

import time
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa

from saas_api.core import ids
from saas_api.core.db import cells, tenancy
from saas_api.metering.lru_cache import LruCache

CACHE_SECONDS = 5
"""How long a process may still use an external id that names another organization, or a state before a closing."""
MAX_CACHED_SUBJECTS = 20_000
_FIND = sa.text("""
SELECT 'org_' || replace(CAST(id AS text), '-', '') AS name, id AS organization_id, CAST(NULL AS uuid) AS api_key_id,
  false AS is_test, closed_at
FROM organizations WHERE id = ANY(CAST(:org AS uuid[]))
UNION ALL
SELECT 'key_' || replace(CAST(k.id AS text), '-', ''), o.id, k.id, k.mode = 'test', o.closed_at
FROM api_keys k JOIN organizations o ON o.id = k.organization_id WHERE k.id = ANY(CAST(:key AS uuid[]))
UNION ALL
SELECT external_id, id, NULL, false, closed_at FROM organizations WHERE external_id = ANY(CAST(:external AS text[]))""")


class UsageSubject(NamedTuple):
    """Whose usage an event reports.

    api_key_id: None unless the subject is a key, in any state: what it has used is used
    is_test: the key is a test key, so its usage is shown and never billed
    closed_at: of the organization; what is used from then on, no billing period pays for
    """

    organization_id: UUID
    api_key_id: UUID | None = None
    is_test: bool = False
    closed_at: datetime | None = None


_cache: LruCache[str, tuple[UsageSubject, float]] = LruCache(MAX_CACHED_SUBJECTS)


def find_subjects(names: Collection[str]) -> Mapping[str, UsageSubject]:
    """Organizations and keys by the names that services give them; a name that is missing is unknown.

    An id of ours is never taken for an external id. Opens a transaction of its own for what is not cached.
    names: `org_...`, `key_...` or external ids
    """
    oldest = time.monotonic() - CACHE_SECONDS
    found, unknown = {}, []
    for name in names:
        cached = _cache.find(name)
        if cached is not None and cached[1] >= oldest:
            found[name] = cached[0]
        else:
            unknown.append(name)
    if unknown:
        found.update(_load(unknown))
    return found


def _load(names: Collection[str]) -> Mapping[str, UsageSubject]:
    wanted: dict[str, list[str]] = {"org": [], "key": [], "external": []}
    for name in names:
        if ids.is_public_id(name, "org", "key"):
            wanted[name[:3]].append(name[4:])
        else:
            wanted["external"].append(name)
    loaded: dict[str, UsageSubject] = {}

    def load_from_cell() -> bool | None:
        with tenancy.system_session("metering.subjects") as session:
            for row in session.execute(_FIND, wanted):
                loaded[row.name] = UsageSubject(row.organization_id, row.api_key_id, row.is_test, row.closed_at)
        return True if loaded.keys() >= set(names) else None

    loaded_at = time.monotonic()
    cells.search(load_from_cell)
    for name, subject in loaded.items():
        _cache.put(name, (subject, loaded_at))
    return loaded
