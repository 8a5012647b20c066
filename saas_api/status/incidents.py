"""Incidents, which operators report and update for customers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.audit import OperatorContext
from saas_api.core import clock, ids
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import NotFound
from saas_api.status.components import NAMES, Component

MAX_TITLE_LENGTH, MAX_BODY_LENGTH = 120, 2_000
MAX_SHOWN_INCIDENTS = 20
_FIND = """
SELECT i.id, i.title, i.components, u.status, u.body, u.at FROM ({}) i
  JOIN incident_updates u ON u.incident_id = i.id ORDER BY i.id DESC, u.id DESC
"""
_NEWEST = sa.text(_FIND.format("SELECT * FROM incidents ORDER BY id DESC LIMIT :limit"))
_INSERT_UPDATE = sa.text("""
INSERT INTO incident_updates (id, incident_id, status, body, at) VALUES (:id, :incident, :status, :body, :at)
""")
_ONE = sa.text(_FIND.format("SELECT * FROM incidents WHERE id = :id"))


class IncidentStatus(StrEnum):
    """How far an incident is; the last one ends it."""

    INVESTIGATING = "investigating"
    IDENTIFIED = "identified"
    MONITORING = "monitoring"
    RESOLVED = "resolved"


class IncidentNotFound(NotFound):
    """There is no incident with this ID."""

    message = "There is no such incident."


@dataclass(frozen=True)
class IncidentUpdate:
    """What operators told customers at an instant."""

    status: IncidentStatus
    body: str
    at: datetime


@dataclass(frozen=True)
class Incident:
    """An incident with its updates, the newest first; there is at least one."""

    id: UUID
    title: str
    components: Sequence[Component]
    updates: Sequence[IncidentUpdate]

    @property
    def status(self) -> IncidentStatus:
        return self.updates[0].status

    @property
    def is_open(self) -> bool:
        return self.status != IncidentStatus.RESOLVED

    @property
    def started_at(self) -> datetime:
        return self.updates[-1].at

    @property
    def component_names(self) -> str:
        """Names of the components as a list in text."""
        return ", ".join(NAMES[component] for component in self.components)


def list_incidents(session: Session, limit: int = MAX_SHOWN_INCIDENTS) -> list[Incident]:
    """The newest incidents, the newest first.

    session: a system session
    """
    rows = session.execute(_NEWEST, {"limit": limit}).all()
    return [_incident(list(own)) for _, own in groupby(rows, key=lambda row: row.id)]


def get_incident(session: Session, incident_id: UUID) -> Incident:
    """An incident.

    session: a system session
    raises: IncidentNotFound
    """
    rows = session.execute(_ONE, {"id": incident_id}).all()
    if not rows:
        raise IncidentNotFound
    return _incident(rows)


def report(
    session: SystemSession, operator: OperatorContext, *, title: str, components: Sequence[str], status: str, body: str
) -> Incident:
    """Publish a new incident with its first update.

    title: at most MAX_TITLE_LENGTH characters
    body: at most MAX_BODY_LENGTH characters
    """
    incident_id = ids.new_id()
    session.execute(
        sa.text("INSERT INTO incidents (id, title, components, created_at) VALUES (:id, :title, :components, :at)"),
        {"id": incident_id, "title": title, "components": list(components), "at": clock.now()},
    )
    _add_update(session, incident_id, status, body)
    _record(session, incident_id, operator, "reported", {"title": title, "status": status})
    return get_incident(session, incident_id)


def add_update(
    session: SystemSession, incident_id: UUID, operator: OperatorContext, *, status: str, body: str
) -> Incident:
    """Publish an update of an incident; a resolved one is open again by an update with another status.

    raises: IncidentNotFound
    """
    get_incident(session, incident_id)
    _add_update(session, incident_id, status, body)
    _record(session, incident_id, operator, "updated", {"status": status})
    return get_incident(session, incident_id)


def _add_update(session: SystemSession, incident_id: UUID, status: str, body: str) -> None:
    values = {"id": ids.new_id(), "incident": incident_id, "status": status, "body": body, "at": clock.now()}
    session.execute(_INSERT_UPDATE, values)


def _record(
    session: SystemSession, incident_id: UUID, operator: OperatorContext, verb: str, data: dict[str, Any]
) -> None:
    reason = {"reason": operator.reason.strip()}
    audit.record_event(session, None, operator.actor, f"incident.{verb}", ("incident", incident_id), {**data, **reason})


def _incident(rows: Sequence[Row[Any]]) -> Incident:
    updates = [IncidentUpdate(IncidentStatus(row.status), row.body, row.at) for row in rows]
    return Incident(rows[0].id, rows[0].title, [Component(name) for name in rows[0].components], updates)
