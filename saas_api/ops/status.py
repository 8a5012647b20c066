"""Readiness of the engines, and the state of each component, now and in the past, for the status page."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import UnsafeDatabase
from saas_api.core.limits import direct_connections, limiter
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.status import history, incidents
from saas_api.status.components import NAMES, Component, ComponentState
from saas_api.status.history import ComponentHistory
from saas_api.status.incidents import Incident

log = get_logger(__name__)

STATUS_CACHE_SECONDS = 5
SLOW_AFTER, DOWN_AFTER, SCHEDULE_STALE_AFTER = timedelta(minutes=1), timedelta(minutes=15), timedelta(minutes=5)
_BACKLOG_AGE = text("""
SELECT (SELECT min(next_at) FROM messages WHERE status IN ('queued', 'sending') AND next_at < now()) AS messages,
  (SELECT min(next_at) FROM webhook_deliveries WHERE status IN ('queued', 'sending') AND next_at < now()) AS webhooks,
  (SELECT max(started_at) FROM job_runs) AS ran, now() AS now
""")
_LAST_RECORDING = text("SELECT max(started_at) FROM job_runs WHERE job = 'ops.status' AND state = 'done'")

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

    since: beginning of the problem, if known
    """

    component: Component
    state: ComponentState
    text: str
    since: datetime | None = None

    @property
    def name(self) -> str:
        """The component as customers know it."""
        return NAMES[self.component]


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
    try:
        with tenancy.system_session("ops.status") as session:
            age = BacklogAge(*session.execute(_BACKLOG_AGE).one())
    except SQLAlchemyError:
        text = "Requests are answered with 503. Nothing that was accepted is lost."
        return [ComponentStatus(component, ComponentState.DOWN, text) for component in Component]
    return [
        _api_status(has_exact_limits=all(limits_servers.values())),
        _backlog_status(Component.MESSAGES, age.messages, age.now),
        _backlog_status(Component.WEBHOOKS, age.webhooks, age.now),
        _schedule_status(age),
    ]


def _api_status(*, has_exact_limits: bool) -> ComponentStatus:
    if has_exact_limits:
        return ComponentStatus(Component.API, ComponentState.OK, "Requests are accepted.")
    return ComponentStatus(
        Component.API, ComponentState.SLOW, "Requests are accepted. Rate limits are counted less exactly."
    )


def _backlog_status(component: Component, since: datetime | None, now: datetime) -> ComponentStatus:
    if since is None or now - since < SLOW_AFTER:
        return ComponentStatus(component, ComponentState.OK, "No delays.")
    state = ComponentState.SLOW if now - since < DOWN_AFTER else ComponentState.DOWN
    return ComponentStatus(component, state, "Deliveries are delayed.", since)


def _schedule_status(age: BacklogAge) -> ComponentStatus:
    if age.last_run is None:
        return ComponentStatus(Component.JOBS, ComponentState.SLOW, "Nothing has run yet.")
    if age.now - age.last_run < SCHEDULE_STALE_AFTER:
        return ComponentStatus(Component.JOBS, ComponentState.OK, "Everything runs on time.")
    return ComponentStatus(Component.JOBS, ComponentState.DOWN, "Invoices and reminders are delayed.", age.last_run)


@dataclass(frozen=True)
class StatusHistory:
    """What the status page shows of the past."""

    components: Mapping[Component, ComponentHistory]
    incidents: Sequence[Incident]


def find_history() -> StatusHistory | None:
    """Days and incidents of the past; None while the database is away."""
    try:
        with tenancy.system_session("ops.status") as session:
            return StatusHistory(history.list_histories(session, clock.now().date()), incidents.list_incidents(session))
    except SQLAlchemyError:
        return None


def record_minute() -> dict[str, int]:
    """Add a minute to the state in which each component is.

    Time since its last run counts as time in which scheduled work was down; of the other components nothing is known.

    returns: number of components that are not in order
    """
    states = {part.component: part.state for part in get_status()}
    now = clock.now()
    with tenancy.system_session("ops.status") as session:
        last = session.scalar(_LAST_RECORDING)
        if last is not None and now - last > SCHEDULE_STALE_AFTER:
            history.record_outage(session, Component.JOBS, last + timedelta(minutes=1), now)
        history.record_minute(session, states, now.date())
    return {"problems": sum(state != ComponentState.OK for state in states.values())}
