"""The log of requests of the API: every error and a sample of the others, for 30 days."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from saas_api.core import clock, time_zones
from saas_api.core.db import pagination
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import NotFound, ValidationFailed
from saas_api.usage import ranges, sources
from saas_api.usage.models import LoggedRequest
from saas_api.usage.ranges import InvalidDateRange

DAYS_KEPT = 30
ERROR = "error"
"""Statuses of 400 and above."""
REJECTED = "rejected"
"""Statuses from 400 to 499 but 429, as usage counts rejected calls."""
MAX_COUNTED = 100
MAX_TEXT_LENGTH = 500
"""Of paths and error messages."""


class RequestNotFound(NotFound):
    """The log has no request with this id."""

    code, message = "REQUEST_NOT_FOUND", "There is no request with this ID in the log."


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request that the log keeps, as `LoggedRequest`."""

    organization_id: UUID
    at: datetime
    id: UUID
    request_id: str
    mode: str
    method: str
    route: str
    path: str
    status: int
    error_code: str | None
    error_message: str | None
    api_key_id: UUID | None
    user_id: UUID | None
    ip: str | None
    latency_ms: int | None
    message_id: UUID | None


@dataclass(frozen=True)
class RequestFilter:
    """Which requests a list has; None for any.

    status: a status such as "429", a class such as "4xx", ERROR or REJECTED
    since, until: the second is exclusive
    """

    mode: str | None = None
    status: str | None = None
    error_code: str | None = None
    api_key_id: UUID | None = None
    method: str | None = None
    route: str | None = None
    request_id: str | None = None
    message_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self, organization_id: UUID) -> list[sa.ColumnElement[bool]]:
        """The WHERE of a list."""
        log = LoggedRequest
        equal = {
            log.mode: self.mode,
            log.error_code: self.error_code,
            log.api_key_id: self.api_key_id,
            log.method: self.method,
            log.route: self.route,
            log.request_id: self.request_id,
            log.message_id: self.message_id,
        }
        found = [log.organization_id == organization_id]
        found += [column == value for column, value in equal.items() if value is not None]
        if self.status is not None:
            first, last = _status_range(self.status)
            found.append(log.status.between(first, last))
        if self.status == REJECTED:
            found.append(log.status != 429)
        if self.since:
            found.append(log.at >= self.since)
        if self.until:
            found.append(log.at < self.until)
        return found


def _status_range(status: str) -> tuple[int, int]:
    if status == ERROR:
        return 400, 599
    group = "4xx" if status == REJECTED else status
    return int(group.replace("x", "0")), int(group.replace("x", "9"))


def parse_filter(query: Mapping[str, Any], zone: str) -> RequestFilter:
    """The filter of a loaded query, whose dates are days of a time zone, both inclusive.

    raises: ValidationFailed
    """
    names = ("mode", "status", "error_code", "api_key_id", "method", "route", "request_id")
    filters = RequestFilter(**{name: query[name] for name in names})
    if not query["start_date"] and not query["end_date"]:
        return filters
    time_zone = time_zones.get_zone(zone)
    today = clock.now().astimezone(time_zone).date()
    try:
        days = ranges.parse_date_range(query["start_date"], query["end_date"], today, time_zone)
    except InvalidDateRange as cause:
        raise ValidationFailed.at_field(cause.field, cause.reason) from cause
    return replace(filters, since=days.starts_at, until=days.ends_at)


def get_request(session: Session, organization_id: UUID, request_id: str, mode: str | None = None) -> LoggedRequest:
    """The newest request with an id; one that the client has chosen may repeat.

    mode: of the keys whose requests are seen; None for both
    raises: RequestNotFound
    """
    page = list_requests(
        session, organization_id, RequestFilter(mode=mode, request_id=request_id), PageRequest(limit=1)
    )
    if not page.items:
        raise RequestNotFound
    found: LoggedRequest = page.items[0]
    return found


def list_requests(session: Session, organization_id: UUID, filters: RequestFilter, request: PageRequest) -> Page:
    """A page of the log, newest first.

    raises: ValidationFailed for a cursor of another list
    """
    statement = sa.select(LoggedRequest).where(*filters.conditions(organization_id))
    return pagination.paginate(session, statement, LoggedRequest.at.desc(), LoggedRequest.id.desc(), request=request)


def find_sending_request(session: Session, organization_id: UUID, message_id: UUID) -> str | None:
    """Id of the request that sent a message; None where the log does not have it."""
    method, route = sources.get_endpoint("messages.send")
    filters = RequestFilter(message_id=message_id, method=method, route=route)
    found = list_latest(session, organization_id, filters, limit=1)
    return found[0].request_id if found else None


def count_newer(session: Session, organization_id: UUID, filters: RequestFilter, after: datetime) -> int:
    """Number of requests of a list that came after an instant, up to MAX_COUNTED."""
    newer = sa.select(LoggedRequest.id).where(*filters.conditions(organization_id), LoggedRequest.at > after)
    return session.scalar(sa.select(sa.func.count()).select_from(newer.limit(MAX_COUNTED).subquery())) or 0


def list_latest(session: Session, organization_id: UUID, filters: RequestFilter, limit: int) -> Sequence[LoggedRequest]:
    """Up to `limit` requests of a list, newest first."""
    statement = sa.select(LoggedRequest).where(*filters.conditions(organization_id))
    return session.scalars(statement.order_by(LoggedRequest.at.desc(), LoggedRequest.id.desc()).limit(limit)).all()


_COLUMNS = [column.name for column in fields(NewRequest)]
_TYPES = {column.name: column.type.compile(postgresql.dialect()) for column in LoggedRequest.__table__.columns}  # type: ignore[no-untyped-call]  # SQLAlchemy annotates no dialect
_ARRAYS = ", ".join(f"CAST(:{name} AS {_TYPES[name]}[])" for name in _COLUMNS)
_INSERT = sa.text(f"""
INSERT INTO request_log ({", ".join(_COLUMNS)}) SELECT {", ".join(f"v.{name}" for name in _COLUMNS)}
FROM unnest({_ARRAYS}) AS v({", ".join(_COLUMNS)}) JOIN organizations o ON o.id = v.organization_id""")


def write_requests(session: SystemSession, requests: Sequence[NewRequest]) -> None:
    """Add requests to the log, in one statement."""
    columns: dict[str, list[Any]] = {name: [getattr(one, name) for one in requests] for name in _COLUMNS}
    session.execute(_INSERT, columns)
