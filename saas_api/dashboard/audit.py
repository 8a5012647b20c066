"""The audit log page and its CSV export."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from flask import Blueprint, Response, g, request, url_for
from sqlalchemy.orm import Session

from saas_api.accounts import audit, audit_sentences, members, organizations, schemas
from saas_api.accounts.models import AuditEvent, Organization
from saas_api.accounts.schemas import AuditEventOut, AuditQuery
from saas_api.core.access import require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.errors import ValidationFailed
from saas_api.core.web import forms, pages
from saas_api.core.web.pages import MAX_EXPORT_ROWS, PAGE_SIZE
from saas_api.payments import labels as payment_labels

bp = Blueprint("audit", __name__)

_event_schema = AuditEventOut()
_USERS = sa.text("SELECT id, coalesce(nullif(full_name, ''), email) FROM users WHERE id = ANY (:ids)")
_KEYS = sa.text("SELECT id, name FROM api_keys WHERE organization_id = :organization_id AND id = ANY (:ids)")


ACTOR_KINDS = {
    "user": "Members",
    "api_key": "API keys",
    "operator": "Support",
    "portal": "Customer portal",
    "system": "System",
}
ACTOR_LABELS = {"user": "A former member", "api_key": "An API key", "portal": "Customer portal", "system": "System"}
CSV_COLUMNS = (
    "id",
    "at",
    "actor_type",
    "actor_id",
    "on_behalf_of",
    "action",
    "target_type",
    "target_id",
    "data",
    "reason",
    "request_id",
    "ip",
)


_BILLED_TARGETS = ("invoice", "payment", "refund")


def get_names(session: Session, organization_id: UUID, entries: Sequence[AuditEvent]) -> dict[str, str]:
    """Returns what entries mention, by id: names of users and keys, without former members, and numbers of invoices."""
    ids_by_kind: dict[str, set[UUID]] = {"user": set(), "api_key": set()}
    for entry in entries:
        for kind, reference in ((entry.actor_type, entry.actor_id), (entry.target_type, entry.target_id)):
            actor_id = _uuid(reference)
            if actor_id and kind in ids_by_kind:
                ids_by_kind[kind].add(actor_id)
    names: dict[str, str] = {}
    for kind, statement in (("user", _USERS), ("api_key", _KEYS)):
        if ids_by_kind[kind]:
            values = {"organization_id": organization_id, "ids": list(ids_by_kind[kind])}
            names |= {str(row[0]): row[1] for row in session.execute(statement, values)}
    targets = [_uuid(entry.target_id) for entry in entries if entry.target_type in _BILLED_TARGETS]
    return names | payment_labels.find_labels(session, [(organization_id, target) for target in targets if target])


def _uuid(key: str | None) -> UUID | None:
    try:
        return UUID(key) if key else None
    except ValueError:
        return None


@bp.get("/audit-log")
@require_permission("audit:read")
def index() -> Response:
    """List the audit events, newest first."""
    organization = organizations.get_organization(engine.session(), g.principal.organization_id)
    query, form = forms.parse_filters(AuditQuery(exclude=("limit",)))
    if request.args.get("format") == "csv" and not form.errors:
        return _csv(organization, query)
    page = None
    try:
        page = None if form.errors else _list_events(organization, query, PAGE_SIZE)
    except ValidationFailed as error:
        form.errors.update({str(problem["field"]): str(problem["reason"]) for problem in error.details["fields"]})
    entries = page.items if page else ()
    filters: dict[str, Any] = dict(form.values) if page else {}
    filters.pop("cursor", None)
    return pages.render_page(
        "dashboard/audit/index.html",
        status=200 if page else 422,
        entries=entries,
        names=get_names(engine.session(), organization.id, entries),
        sentence=audit_sentences.describe,
        target_name=audit_sentences.target_name,
        wire=schemas.audit_public_id,
        pretty=_format_data,
        form=form,
        kinds=ACTOR_KINDS,
        labels=ACTOR_LABELS,
        members=members.get_team(engine.session(), organization.id).members,
        zone=organization.timezone,
        older=url_for(".index", **filters, cursor=page.next_cursor) if page and page.next_cursor else "",
        newer=url_for(".index", **filters) if request.args.get("cursor") else "",
        csv=url_for(".index", **filters, format="csv"),
    )


def _list_events(organization: Organization, query: dict[str, Any], limit: int) -> Page:
    page_request, filters = PageRequest.from_query({**query, "limit": limit})
    return audit.list_events(engine.session(), organization, page_request, **filters)


def _csv(organization: Organization, query: dict[str, Any]) -> Response:
    page = _list_events(organization, {**query, "cursor": None}, MAX_EXPORT_ROWS)
    if page.next_cursor:
        raise ValidationFailed.at_field("start_date", f"More than {MAX_EXPORT_ROWS:,} entries. Choose fewer days.")
    rows = [csv_row(entry, organization.timezone) for entry in page.items]
    return pages.csv_response("audit-log.csv", CSV_COLUMNS, rows)


def csv_row(entry: AuditEvent, zone: str) -> list[Any]:
    """Values of CSVCSV_COLUMNS."""
    data = pages.dump_csv_fields(_event_schema, entry, zone)
    row = {**data, "data": orjson.dumps(data["data"]).decode()}
    row |= {f"{party}_{name}": data[party][name] for party in ("actor", "target") for name in ("type", "id")}
    return [row[column] for column in CSV_COLUMNS]


def _format_data(data: dict[str, Any]) -> str:
    return orjson.dumps(data, option=orjson.OPT_INDENT_2).decode()
