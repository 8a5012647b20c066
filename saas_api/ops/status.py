"""Readiness of the engines, and the state of each component for the status page."""

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
from saas_api.core.limits import direct_connections, limiter
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting

log = get_logger(__name__)

STATUS_CACHE_SECONDS = 5
SLOW_AFTER, DOWN_AFTER, SCHEDULE_STALE_AFTER = timedelta(minutes=1), timedelta(minutes=15), timedelta(minutes=5)
_BACKLOG_AGE = text("""
SELECT (SELECT min(next_at) FROM messages WHERE status IN ('queued', 'sending') AND next_at < now()) AS messages,
  (SELECT min(next_at) FROM webhook_deliveries WHERE status IN ('queued', 'sending') AND next_at < now()) AS webhooks,
  (SELECT max(started_at) FROM job_runs) AS ran, now() AS now
""")


_is_isolation_verified = threading.Event()


@dataclass(frozen=True)
class BacklogAge:
    """Since when the oldest due message and delivery wait, and the last start of a job; None for none."""

    messages: datetime | None
    webhooks: datetime | None
    last_run: datetime | None
    now: datetime


def is_database_ready(session: Session) -> bool:
    """Whether PostgreSQL runs a statement, and isolated tenants when that was verified once."""
    try:
        if not _is_isolation_verified.is_set():
            tenancy.verify_isolation()
            _is_isolation_verified.set()
        return bool(session.scalar(text("SELECT 1")))
    except UnsafeDatabase as error:
        log.error("database_unsafe", reason=str(error))  # noqa: TRY400 - no traceback
        return False
    except SQLAlchemyError:
        return False


def is_redis_ready() -> bool:
    """Whether Redis answers a ping within 50 ms."""
    pool = direct_connections.low_latency_pool(setting("REDIS_URL"))
    try:
        return bool(redis.Redis(connection_pool=pool).ping())
    except redis.RedisError:
        return False
    finally:
        pool.disconnect()


@dataclass(frozen=True)
class ComponentStatus:
    """State of a component.

    state: "ok", "slow" or "down"
    since: beginning of the problem, if known
    """

    name: str
    state: str
    text: str
    since: datetime | None = None


def get_status() -> list[ComponentStatus]:
    """The state of every component, at most five seconds old; never raises."""
    with _status_lock:
        if time.monotonic() - _cached_status.measured_at > STATUS_CACHE_SECONDS:
            _cached_status.components, _cached_status.measured_at = _measure(), time.monotonic()
        return _cached_status.components


@dataclass
class _CachedStatus:
    components: list[ComponentStatus]
    measured_at: float


_cached_status, _status_lock = _CachedStatus([], -float(STATUS_CACHE_SECONDS) - 1), threading.Lock()


def _measure() -> list[ComponentStatus]:
    limits_servers = limiter.find_own_servers() or {"Redis": is_redis_ready()}
    redis_status = (
        ComponentStatus("Redis", "ok", "Rate limits apply across all processes.")
        if all(limits_servers.values())
        else ComponentStatus("Redis", "down", "Rate limits apply per process. No data is lost.")
    )
    try:
        with tenancy.system_session("ops.status") as session:
            age = BacklogAge(*session.execute(_BACKLOG_AGE).one())
    except SQLAlchemyError:
        return [ComponentStatus("API", "down", "The database is unavailable. Calls return 503."), redis_status]
    return [
        ComponentStatus("API", "ok", "Accepting calls."),
        _backlog_status("Message delivery", age.messages, age.now),
        _backlog_status("Webhooks", age.webhooks, age.now),
        _schedule_status(age),
        redis_status,
    ]


def _backlog_status(name: str, since: datetime | None, now: datetime) -> ComponentStatus:
    if since is None or now - since < SLOW_AFTER:
        return ComponentStatus(name, "ok", "No delays.")
    state = "slow" if now - since < DOWN_AFTER else "down"
    return ComponentStatus(name, state, "Deliveries are delayed.", since)


def _schedule_status(age: BacklogAge) -> ComponentStatus:
    if age.last_run is None:
        return ComponentStatus("Scheduled jobs", "slow", "No job has run yet.")
    if age.now - age.last_run < SCHEDULE_STALE_AFTER:
        return ComponentStatus("Scheduled jobs", "ok", "Jobs run on time.")
    return ComponentStatus("Scheduled jobs", "down", "Jobs have stopped running.", age.last_run)
