"""The demo's history on the status page: ninety days with two bad ones, and the incident of one of them."""

from datetime import datetime, timedelta

from sqlalchemy import text

from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.core import clock
from saas_api.core.db.tenancy import SystemSession
from saas_api.demo import timeline
from saas_api.status import history, incidents
from saas_api.status.components import Component
from saas_api.status.incidents import IncidentStatus

_MINUTES_PER_DAY = 1_440
_BAD_DAYS = {(12, Component.WEBHOOKS): (38, 0), (41, Component.MESSAGES): (21, 9)}
"""Days ago and component: slow and down minutes."""
_INCIDENT_DAYS_AGO = 41
_UPDATES = (
    (0, IncidentStatus.INVESTIGATING, "Messages are delivered with a delay. Requests are accepted as usual."),
    (14, IncidentStatus.IDENTIFIED, "A provider answers slowly. We are sending through another one."),
    (31, IncidentStatus.RESOLVED, "All delayed messages were delivered. None was lost."),
)
_INSERT_DAY = text("""
INSERT INTO status_days (component, day, ok_minutes, slow_minutes, down_minutes)
VALUES (:component, :day, :ok, :slow, :down) ON CONFLICT DO NOTHING
""")


def create_history() -> None:
    """Fill the history of the status page, unless there is an incident already."""
    now = clock.now()
    with timeline.demo_session() as session:
        if incidents.list_incidents(session):
            return
        rows = []
        for age in range(1, history.SHOWN_DAYS):
            for component in Component:
                slow, down = _BAD_DAYS.get((age, component), (0, 0))
                minutes = {"ok": _MINUTES_PER_DAY - slow - down, "slow": slow, "down": down}
                rows.append({"component": component, "day": (now - timedelta(days=age)).date(), **minutes})
        session.execute(_INSERT_DAY, rows)
        began_at = (now - timedelta(days=_INCIDENT_DAYS_AGO)).replace(hour=9, minute=12, second=0, microsecond=0)
        try:
            _create_incident(session, began_at)
        finally:
            clock.freeze_time(None)


def _create_incident(session: SystemSession, began_at: datetime) -> None:
    operator = OperatorContext(SYSTEM_ACTOR, "made by flask demo seed")
    incident_id = None
    for minutes, status, body in _UPDATES:
        clock.freeze_time(began_at + timedelta(minutes=minutes))
        if incident_id is None:
            title, components = "Delayed messages", [Component.MESSAGES]
            incident_id = incidents.report(
                session, operator, title=title, components=components, status=status, body=body
            ).id
        else:
            incidents.add_update(session, incident_id, operator, status=status, body=body)
