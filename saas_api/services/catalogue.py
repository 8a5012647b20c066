"""The generation of the catalogue, and caches of services, tokens, routes and meters that a process compares with it.

A change raises the generation in its own transaction and publishes it to Redis after the commit. A process that reads
a higher generation than that of its cache loads again, so a change holds from the next call on in every process.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import sqlalchemy as sa

from saas_api.core.db import engine, tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.limits import limiter
from saas_api.core.limits.circuit_breaker import RedisUnavailable

GENERATION_KEY = "catalogue:gen"
CACHE_SECONDS, CACHE_SECONDS_WITHOUT_REDIS = 60, 5
_READ_GENERATION = sa.text("SELECT generation FROM catalogue_generation")
_BUMP_GENERATION = sa.text("UPDATE catalogue_generation SET generation = generation + 1 RETURNING generation")

T = TypeVar("T")


def bump(session: SystemSession) -> None:
    """Raise the generation in the transaction of a change; after the commit no process uses an older cache.

    Concurrent changes wait for each other from here until they commit.
    """
    generation: int = session.execute(_BUMP_GENERATION).scalar_one()
    engine.after_commit(session, lambda: limiter.publish_generation(GENERATION_KEY, generation))


def republish_generation() -> None:
    """Publish the generation to Redis again, in case a publication was lost."""
    with tenancy.system_session("services.catalogue") as session:
        generation: int = session.execute(_READ_GENERATION).scalar_one()
    limiter.publish_generation(GENERATION_KEY, generation)


def read_generation() -> int | None:
    """The generation that Redis has; 0 when it has lost it, None when it does not answer."""
    try:
        return int(limiter.get_backend().execute(("GET", GENERATION_KEY)) or 0)
    except RedisUnavailable:
        return None


@dataclass(frozen=True)
class CatalogueEntry(Generic[T]):
    """A loaded value.

    generation: the value has every change up to it
    loaded_at: monotonic time in seconds
    """

    value: T
    generation: int
    loaded_at: float

    def is_current(self, generation: int | None) -> bool:
        """Whether the value may still be used; `generation` as for `CachedCatalogue.get_entry`."""
        is_away = limiter.get_backend().breaker_of(GENERATION_KEY).is_away
        max_age = CACHE_SECONDS_WITHOUT_REDIS if is_away else CACHE_SECONDS
        has_changes = generation is None or 0 < generation <= self.generation
        return has_changes and time.monotonic() - self.loaded_at < max_age


class CachedCatalogue(Generic[T]):
    """A value of one process, shared by its threads and loaded from PostgreSQL when it is no longer current.

    It is at most CACHE_SECONDS old, or CACHE_SECONDS_WITHOUT_REDIS while Redis does not answer.
    """

    def __init__(self, load: Callable[[SystemSession], T]) -> None:
        """Create an empty cache.

        load: reads the value; called with a session that sees every organization
        """
        self._load = load
        self._entry: CatalogueEntry[T] | None = None
        self._lock = threading.Lock()

    def get(self, generation: int | None) -> T:
        """The value; `generation` as for `get_entry`."""
        return self.get_entry(generation).value

    def get_entry(self, generation: int | None) -> CatalogueEntry[T]:
        """The value with its generation.

        generation: that Redis has; 0 when Redis has lost it; None when the caller compares it later, or Redis does not
            answer
        """
        entry = self._entry
        if entry is not None and entry.is_current(generation):
            return entry
        with self._lock:  # the other threads wait and use what the first one has loaded
            entry = self._entry
            if entry is None or not entry.is_current(generation):
                entry = self._entry = self._read()
        if generation == 0:
            limiter.publish_generation(GENERATION_KEY, entry.generation)
        return entry

    def clear(self) -> None:
        """Load again at the next call."""
        self._entry = None

    def _read(self) -> CatalogueEntry[T]:
        loaded_at = time.monotonic()
        with tenancy.system_session("services.catalogue") as session:
            generation = session.execute(_READ_GENERATION).scalar_one()  # first: the value may be newer, never older
            return CatalogueEntry(self._load(session), generation, loaded_at)
