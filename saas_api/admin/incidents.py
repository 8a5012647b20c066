"""Incidents on the status page: list, report and update."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, url_for
from marshmallow import fields, validate

from saas_api.admin import context
from saas_api.admin.action_types import Action
from saas_api.admin.context import Preview, ReasonForm
from saas_api.core.access import require_operator
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.fields import Text
from saas_api.core.web import pages
from saas_api.core.web.forms import Form
from saas_api.status import incidents
from saas_api.status.components import NAMES, Component
from saas_api.status.incidents import MAX_BODY_LENGTH, MAX_TITLE_LENGTH, Incident, IncidentStatus

bp = Blueprint("incidents", __name__, url_prefix="/admin")

MAX_LISTED_INCIDENTS = 100


class UpdateIncidentForm(ReasonForm):
    """What customers are told now."""

    status = fields.String(required=True, validate=validate.OneOf(list(IncidentStatus)))
    body = Text(maximum=MAX_BODY_LENGTH, multiline=True, required=True)


class ReportIncidentForm(UpdateIncidentForm):
    """A new incident with its first update."""

    title = Text(maximum=MAX_TITLE_LENGTH, required=True)
    components = fields.List(
        fields.String(validate=validate.OneOf(list(Component))),
        required=True,
        validate=validate.Length(min=1, error="Choose at least one component."),
    )


def get_incident(session: SystemSession, incident_id: UUID) -> Incident:
    """An incident; raises IncidentNotFound."""
    return incidents.get_incident(session, incident_id)


def preview_report(_subject: None, _form: Form | None) -> Preview:
    """The form of a new incident, and the names of the components."""
    return Preview(list(NAMES.items()), {"status": IncidentStatus.INVESTIGATING})


def preview_update(incident: Incident, _form: Form | None) -> Preview:
    """The form of an update, which begins with the current status."""
    return Preview(values={"status": incident.status})


@bp.get("/incidents")
@require_operator("support")
def index() -> Response:
    """List the newest incidents."""
    with context.read_session() as session:
        listed = incidents.list_incidents(session, MAX_LISTED_INCIDENTS)
    return pages.render_page("admin/incidents/index.html", incidents=listed)


@bp.get('/incidents/<id("inc"):incident_id>')
@require_operator("support")
def show(incident_id: UUID) -> Any:
    """Show an incident with its updates."""
    with context.read_session() as session:
        incident = incidents.get_incident(session, incident_id)
    return pages.render_page("admin/incidents/show.html", incident=incident)


ACTIONS: tuple[Action, ...] = (
    Action(
        "report",
        "incidents",
        "Report incident",
        "It appears on the status page and in its feed at once.",
        "Report incident",
        "Incident reported.",
        context.in_write_session(incidents.report),
        ReportIncidentForm,
        is_idempotent=True,
        preview=preview_report,
        next_page=lambda incident: url_for("admin.incidents.show", incident_id=incident.id),
    ),
    Action(
        "update",
        "incident",
        lambda incident: f"Post an update of {incident.title}",
        "It appears on the status page and in its feed at once. An incident ends with an update that resolves it.",
        "Post update",
        "Update posted.",
        context.in_write_session(incidents.add_update),
        UpdateIncidentForm,
        is_idempotent=True,
        preview=preview_update,
    ),
)
