"""The audit log of the platform: actions of operators that belong to no organization alone."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID

import marshmallow as ma
import orjson
import sqlalchemy as sa
from flask import Blueprint, Response

from saas_api.accounts import audit_sentences, schemas
from saas_api.accounts.models import AuditEvent, Organization, User
from saas_api.admin import context, lists
from saas_api.admin.lists import Columns, ListQuery
from saas_api.api_keys.models import ApiKey
from saas_api.core import clock
from saas_api.core.access import require_operator
from saas_api.core.db.pagination import Page
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.fields import DateField, Email, Text
from saas_api.core.web import forms, pages
from saas_api.payments import labels

bp = Blueprint("audit", __name__)


class OperatorAuditQuery(ListQuery):
    """Filters of the log: `action` is an action or the part before its dot, `email` the operator's, days are UTC."""

    action = Text(maximum=100, load_default=None)
    email = Email(load_default=None, attribute="operator_email")
    start_date = DateField(load_default=None)
    end_date = DateField(load_default=None)

    @ma.validates_schema
    def _is_range(self, values: dict[str, Any], **_: Any) -> None:
        if values["start_date"] and values["end_date"] and values["end_date"] < values["start_date"]:
            raise ma.ValidationError("Must not be before the start date.", "end_date")


def list_audit(session: SystemSession, query: dict[str, Any]) -> Page:
    """A page of `AuditEvent` of the platform, newest first.

    query: as of OperatorAuditQuery
    raises: ValidationFailed
    """
    statement = sa.select(AuditEvent).where(AuditEvent.organization_id.is_(None))
    if action := query["action"]:
        is_in_group = AuditEvent.action.startswith(f"{action}.", autoescape=True)
        statement = statement.where(sa.or_(AuditEvent.action == action, is_in_group))
    if address := query["operator_email"]:
        user_ids = sa.select(sa.cast(User.id, sa.Text)).where(User.email == address)
        statement = statement.where(AuditEvent.actor_id.in_(user_ids))
    if query["start_date"]:
        statement = statement.where(AuditEvent.at >= datetime.combine(query["start_date"], time(), UTC))
    if query["end_date"]:
        end = datetime.combine(query["end_date"], time(), UTC) + timedelta(days=1)
        statement = statement.where(AuditEvent.at < end)
    return lists.paginate_or_export(session, statement, AuditEvent.id.desc(), query=query)


def get_names(session: SystemSession, events: Collection[AuditEvent]) -> dict[str, str]:
    """What audit events mention, by id: addresses of users, names of keys and organizations, numbers of invoices."""
    ids = [*(event.actor_id for event in events), *(event.target_id for event in events)]
    uuids = [UUID(id_) for id_ in ids if id_ and _is_uuid(id_)]
    organization_ids = [
        UUID(event.data["organization"]) for event in events if _is_uuid(event.data.get("organization"))
    ]
    names = sa.union_all(
        sa.select(sa.cast(User.id, sa.Text), User.email).where(User.id.in_(uuids)),
        sa.select(sa.cast(ApiKey.id, sa.Text), ApiKey.name).where(ApiKey.id.in_(uuids)),
        sa.select(sa.cast(Organization.id, sa.Text), Organization.name).where(Organization.id.in_(organization_ids)),
    )
    targets = [
        (UUID(event.data["organization"]), UUID(event.target_id))
        for event in events
        if _is_uuid(event.data.get("organization")) and _is_uuid(event.target_id)
    ]
    return dict(session.execute(names).all()) | labels.find_labels(session, targets)


def _is_uuid(value: Any) -> bool:
    try:
        UUID(str(value))
    except ValueError:
        return False
    return True


@bp.get("/admin/audit")
@require_operator("support")
def index() -> Response:
    """List audit events, newest first."""
    query, form = forms.parse_filters(OperatorAuditQuery())
    page, names = None, {}
    if not form.errors:
        with context.read_session() as session:
            page = list_audit(session, query)
            names = get_names(session, page.items)
    if page and query["format"] == "csv":
        return lists.csv_export("operator-log", _columns(names), page)
    return pages.render_page(
        "admin/audit.html",
        status=200 if page else 422,
        form=form,
        page=page,
        names=names,
        sentence=audit_sentences.describe,
        target_name=audit_sentences.target_name,
        public_id=schemas.audit_public_id,
        public_actor=_public_actor,
        format_data=_format_data,
        **pages.pagination_links(page.next_cursor if page else None),
    )


def _columns(names: Mapping[str, str]) -> Columns:
    return {
        "id": lambda event: event.id,
        "at": lambda event: clock.format_rfc3339(event.at),
        "operator": lambda event: names.get(event.actor_id or "", _public_actor(event)),
        "organization": lambda event: names.get(event.data.get("organization", "")),
        "action": lambda event: event.action,
        "target_type": lambda event: event.target_type,
        "target_id": lambda event: schemas.audit_public_id(event.target_type, event.target_id),
        "reason": lambda event: event.data.get("reason"),
        "data": lambda event: _format_data(event.data),
        "ip": lambda event: event.ip,
    }


def _public_actor(event: AuditEvent) -> str:
    return schemas.audit_public_id(event.actor_type, event.actor_id) or event.actor_type


def _format_data(data: Mapping[str, Any]) -> str:
    """The data without what has a column of its own, as JSON."""
    rest = {name: value for name, value in data.items() if name not in ("reason", "organization")}
    return orjson.dumps(rest).decode() if rest else ""
