"""Readiness checks and component status."""

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import UnsafeDatabase
from saas_api.core.limits import limiter
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting

log = get_logger(__name__)

_WAITING = text("""
SELECT (SELECT min(next_at) FROM messages WHERE status IN ('queued', 'sending') AND next_at < now()) AS messages,
  (SELECT min(next_at) FROM webhook_deliveries WHERE status IN ('queued', 'sending') AND next_at < now()) AS webhooks,
  (SELECT max(started_at) FROM job_runs) AS ran, now() AS now
""")


@dataclass(frozen=True)
class BacklogAge:
    """What waits longest, and when the timetable ran last; None where nothing waits or ran."""

    messages: datetime | None
    webhooks: datetime | None
    ran: datetime | None
    now: datetime


def get_backlog_age(session: Session) -> BacklogAge:
    """What waits longest.

    session: of the system
    """
    return BacklogAge(*session.execute(_WAITING).one())


STATUS_CACHE_SECONDS = 5
SLOW_SECONDS, DOWN_SECONDS, STALE_SECONDS = timedelta(minutes=1), timedelta(minutes=15), timedelta(minutes=5)
_proven = threading.Event()


def is_database_ready(session: Session) -> bool:
    """Whether PostgreSQL runs a statement, and has once been proven to keep tenants apart."""
    try:
        if not _proven.is_set():
            tenancy.verify_isolation()
            _proven.set()
        return bool(session.scalar(text("SELECT 1")))
    except UnsafeDatabase as error:
        log.error("database_unsafe", reason=str(error))  # noqa: TRY400 - no traceback
        return False
    except SQLAlchemyError:
        return False


def is_redis_ready() -> bool:
    """Whether Redis answers a ping within a twentieth of a second."""
    pool = limiter.low_latency_pool(setting("REDIS_URL"))
    try:
        return bool(redis.Redis(connection_pool=pool).ping())
    except redis.RedisError:
        return False
    finally:
        pool.disconnect()


@dataclass(frozen=True)
class ComponentStatus:
    """A part of the platform.

    state: "ok", "slow" or "down"
    since: since when it is not ok, where that is known
    """

    name: str
    state: str
    text: str
    since: datetime | None = None


def get_status() -> list[ComponentStatus]:
    """Every part as it is now, asked at most every five seconds; never raises."""
    with _status_lock:
        if time.monotonic() - _cached_status.asked_at > STATUS_CACHE_SECONDS:
            _cached_status.parts, _cached_status.asked_at = _measure(), time.monotonic()
        return _cached_status.parts


@dataclass
class _CachedStatus:
    parts: list[ComponentStatus]
    asked_at: float


_cached_status, _status_lock = _CachedStatus([], -float(STATUS_CACHE_SECONDS) - 1), threading.Lock()


def _measure() -> list[ComponentStatus]:
    redis_part = (
        ComponentStatus("Redis", "ok", "Limits are counted across all processes.")
        if is_redis_ready()
        else ComponentStatus("Redis", "down", "Each process limits on its own; nothing is lost.")
    )
    try:
        with tenancy.system_session("ops.status") as session:
            found = get_backlog_age(session)
    except SQLAlchemyError:
        return [ComponentStatus("API", "down", "The database does not answer; calls get 503."), redis_part]
    return [
        ComponentStatus("API", "ok", "Calls are accepted."),
        _line("Message delivery", found.messages, found.now),
        _line("Webhooks", found.webhooks, found.now),
        _schedule_status(found),
        redis_part,
    ]


def _line(name: str, since: datetime | None, now: datetime) -> ComponentStatus:
    if since is None or now - since < SLOW_SECONDS:
        return ComponentStatus(name, "ok", "Nothing waits longer than a minute.")
    state = "slow" if now - since < DOWN_SECONDS else "down"
    return ComponentStatus(name, state, "The longest waiting one should have left earlier.", since)


def _schedule_status(found: BacklogAge) -> ComponentStatus:
    if found.ran is None:
        return ComponentStatus("Timetable", "slow", "No job has run yet.")
    if found.now - found.ran < STALE_SECONDS:
        return ComponentStatus("Timetable", "ok", "Periodic work runs on time.")
    return ComponentStatus("Timetable", "down", "Periodic work has stopped.", found.ran)
