"""Whether what the product stands on answers, which never raises; and the mailbox of development."""

import ipaddress
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

import redis
from sqlalchemy import TextClause, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from saas_api.core import idempotency, tenancy
from saas_api.core.errors import NotFound
from saas_api.core.limits import hot_pool
from saas_api.core.observe import get_logger
from saas_api.core.settings import setting
from saas_api.core.tenancy import UnsafeDatabase, boot_check
from saas_api.ops import queries
from saas_api.providers import mailbox

log = get_logger(__name__)

SHOWN_MAILS = 100
STATUS_SECONDS = 5
SLOW, DOWN, STALE = timedelta(minutes=1), timedelta(minutes=15), timedelta(minutes=5)
_proven = threading.Event()


def database_answers(session: Session) -> bool:
    """Whether PostgreSQL runs a statement, and has once been proven to keep tenants apart."""
    try:
        if not _proven.is_set():
            boot_check()
            _proven.set()
        return bool(session.scalar(text("SELECT 1")))
    except UnsafeDatabase as error:
        log.error("database_unsafe", reason=str(error))  # noqa: TRY400 - no traceback
        return False
    except SQLAlchemyError:
        return False


def redis_answers() -> bool:
    """Whether Redis answers a ping within a twentieth of a second."""
    pool = hot_pool(setting("REDIS_URL"))
    try:
        return bool(redis.Redis(connection_pool=pool).ping())
    except redis.RedisError:
        return False
    finally:
        pool.disconnect()


@dataclass(frozen=True)
class Part:
    """A part of the platform.

    state: "ok", "slow" or "down"
    since: since when it is not ok, where that is known
    """

    name: str
    state: str
    text: str
    since: datetime | None = None


def status() -> list[Part]:
    """Every part as it is now, asked at most every five seconds; never raises."""
    with _asking:
        if time.monotonic() - _told.asked_at > STATUS_SECONDS:
            _told.parts, _told.asked_at = _ask(), time.monotonic()
        return _told.parts


@dataclass
class _Told:
    parts: list[Part]
    asked_at: float


_told, _asking = _Told([], -float(STATUS_SECONDS) - 1), threading.Lock()


def _ask() -> list[Part]:
    redis_part = (
        Part("Redis", "ok", "Limits are counted across all processes.")
        if redis_answers()
        else Part("Redis", "down", "Each process limits on its own; nothing is lost.")
    )
    try:
        with tenancy.as_system("ops.status") as session:
            found = queries.waiting(session)
    except SQLAlchemyError:
        return [Part("API", "down", "The database does not answer; calls get 503."), redis_part]
    return [
        Part("API", "ok", "Calls are accepted."),
        _line("Message delivery", found.messages, found.now),
        _line("Webhooks", found.webhooks, found.now),
        _timetable(found),
        redis_part,
    ]


def _line(name: str, since: datetime | None, now: datetime) -> Part:
    if since is None or now - since < SLOW:
        return Part(name, "ok", "Nothing waits longer than a minute.")
    state = "slow" if now - since < DOWN else "down"
    return Part(name, state, "The longest waiting one should have left earlier.", since)


def _timetable(found: queries.Waiting) -> Part:
    if found.ran is None:
        return Part("Timetable", "slow", "No job has run yet.")
    if found.now - found.ran < STALE:
        return Part("Timetable", "ok", "Periodic work runs on time.")
    return Part("Timetable", "down", "Periodic work has stopped.", found.ran)


def mails(reader: str) -> list[mailbox.Kept]:
    """The last mails of the mailbox, newest first.

    reader: the address of whoever asks
    raises: NotFound in production, where mails are for their readers alone, and for another machine
    """
    _refuse_others(reader)
    return list(islice(mailbox.newest(), SHOWN_MAILS))


def mail(mail_id: UUID, reader: str) -> mailbox.Kept:
    """One mail of the mailbox.

    raises: NotFound, in production and for another machine too
    """
    _refuse_others(reader)
    found = mailbox.find(mail_id)
    if found is None:
        raise NotFound
    return found


def _refuse_others(reader: str) -> None:
    is_here = reader != "invalid" and ipaddress.ip_address(reader).is_loopback
    if setting("APP_ENV") == "production" or not is_here:
        raise NotFound


PURGED_AT_ONCE = 10_000  # a statement has ten seconds
_OLD = {
    "job_runs": "state <> 'running' AND started_at < now() - interval '90 days'",
    "mock_sends": "created_at < now() - interval '7 days'",
    "mails": "finished_at < now() - interval '90 days'",
}


def purge() -> dict[str, int]:
    """Delete idempotency keys that have expired, old runs of jobs, old mails, and what the mock remembers.

    returns: rows by table
    """
    deleted = {"idempotency_keys": idempotency.purge()}
    for table, is_old in _OLD.items():
        deleted[table] = 0
        portion = text(
            f"DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE {is_old} LIMIT :most))"
        )
        while (count := _delete(portion)) > 0:
            deleted[table] += count
    return deleted


def _delete(portion: TextClause) -> int:
    with tenancy.as_system("ops.purge") as session:
        result: Any = session.execute(portion, {"most": PURGED_AT_ONCE})
    return int(result.rowcount)
