"""The export of an organization's data: a ZIP archive of its lists as CSV files."""

import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, BinaryIO
from uuid import UUID

from flask import Blueprint, Response, g
from sqlalchemy.orm import Session

from saas_api.accounts import audit as audit_log
from saas_api.accounts import members, organizations, throttles
from saas_api.accounts.models import Organization
from saas_api.accounts.notices import Notice
from saas_api.api_keys import keys
from saas_api.api_keys.schemas import KeyOut
from saas_api.billing import invoices, periods, usage_csv
from saas_api.core import clock, time_zones
from saas_api.core.access import KeyMode, require_permission
from saas_api.core.db import engine, tenancy
from saas_api.core.db.pagination import PageRequest
from saas_api.core.fields import StrictSchema
from saas_api.core.web import pages, serving
from saas_api.core.web.forms import EmptyForm, Form, form_view
from saas_api.core.web.pages import MAX_EXPORT_ROWS
from saas_api.dashboard import audit, billing, messages
from saas_api.messages import messages as message_records
from saas_api.messages.messages import MessageFilter
from saas_api.usage.ranges import MAX_RANGE_DAYS, DateRange
from saas_api.webhooks import deliveries, endpoints
from saas_api.webhooks.schemas import DeliveryOut, EndpointOut

bp = Blueprint("data_export", __name__)

_MEMORY_BYTES = 1_048_576
"""An archive that is larger is kept in a file while it is made and sent."""
_key_schema, _endpoint_schema, _delivery_schema = KeyOut(), EndpointOut(exclude=("health",)), DeliveryOut()
_PAGE = PageRequest(MAX_EXPORT_ROWS)
_NOTICE = Notice(
    "Your organization's data was exported",
    [],
    "Change your password and look at the audit log.",
    "/dashboard/audit-log",
)


@dataclass(frozen=True)
class ExportedList:
    """A file of the archive.

    rows: at most MAX_EXPORT_ROWS, newest first, from a session of the organization
    """

    name: str
    columns: Sequence[str]
    rows: Callable[[Session, Organization], Iterable[Sequence[Any]]]


def _message_rows(mode: KeyMode) -> Callable[[Session, Organization], Iterable[Sequence[Any]]]:
    def rows(session: Session, organization: Organization) -> Iterable[Sequence[Any]]:
        found = message_records.list_export_rows(session, organization.id, MessageFilter(mode=mode), MAX_EXPORT_ROWS)
        return [messages.csv_row(message, organization.timezone) for message in found]

    return rows


def _usage_rows(mode: KeyMode) -> Callable[[Session, Organization], Iterable[Sequence[Any]]]:
    def rows(session: Session, organization: Organization) -> Iterable[Sequence[Any]]:
        zone = time_zones.get_zone(organization.timezone)
        today = clock.now().astimezone(zone).date()
        days = DateRange(today - timedelta(days=MAX_RANGE_DAYS - 1), today, zone)
        return usage_csv.list_rows(session, organization.id, days, mode)

    return rows


def _invoice_rows(session: Session, organization: Organization) -> Iterable[Sequence[Any]]:
    return [billing.csv_row(invoice) for invoice in invoices.list_invoices(session, organization.id, _PAGE).items]


def _audit_rows(session: Session, organization: Organization) -> Iterable[Sequence[Any]]:
    events = audit_log.list_events(session, organization, _PAGE).items
    return [audit.csv_row(event, organization.timezone) for event in events]


def _key_rows(session: Session, organization: Organization) -> Iterable[Sequence[Any]]:
    return _dump(_key_schema, keys.list_keys(session, organization.id, _PAGE).items, organization)


def _endpoint_rows(session: Session, organization: Organization) -> Iterable[Sequence[Any]]:
    return _dump(_endpoint_schema, endpoints.list_endpoints(session, organization.id, _PAGE).items, organization)


def _delivery_rows(session: Session, organization: Organization) -> Iterable[Sequence[Any]]:
    return _dump(_delivery_schema, deliveries.list_latest(session, organization.id, MAX_EXPORT_ROWS), organization)


def _dump(schema: StrictSchema, items: Iterable[Any], organization: Organization) -> Iterable[Sequence[Any]]:
    """Values of the schema's fields; a list in one cell, with spaces between."""
    for item in items:
        values = pages.dump_csv_fields(schema, item, organization.timezone).values()
        yield [" ".join(value) if isinstance(value, list) else value for value in values]


LISTS = (
    ExportedList("messages-live", messages.MESSAGE_CSV_COLUMNS, _message_rows(KeyMode.LIVE)),
    ExportedList("messages-test", messages.MESSAGE_CSV_COLUMNS, _message_rows(KeyMode.TEST)),
    ExportedList("usage-live", usage_csv.COLUMNS, _usage_rows(KeyMode.LIVE)),
    ExportedList("usage-test", usage_csv.COLUMNS, _usage_rows(KeyMode.TEST)),
    ExportedList("invoices", billing.INVOICE_CSV_COLUMNS, _invoice_rows),
    ExportedList("audit-log", audit.CSV_COLUMNS, _audit_rows),
    ExportedList("api-keys", tuple(_key_schema.fields), _key_rows),
    ExportedList("webhook-endpoints", tuple(_endpoint_schema.fields), _endpoint_rows),
    ExportedList("webhook-deliveries", tuple(_delivery_schema.fields), _delivery_rows),
)


def write_archive(organization_id: UUID) -> BinaryIO:
    """The ZIP archive of an organization, each list in a transaction of its own.

    A list with MAX_EXPORT_ROWS rows may have older ones; README.txt says so.
    """
    with tenancy.tenant_session(organization_id) as session:
        organization = organizations.get_organization(session, organization_id)
        periods.ensure_account(session, organization_id)
    file: Any = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 - closed once it is sent
    lines = [f"Data of {organization.name}, {clock.format_rfc3339(clock.now())}. Times are in {organization.timezone}."]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for exported in LISTS:
            with tenancy.tenant_session(organization_id) as session:
                rows = list(exported.rows(session, organization))
            with archive.open(f"{exported.name}.csv", "w") as entry:
                for piece in pages.iter_csv(exported.columns, rows):
                    entry.write(piece.encode())
            lines.append(_describe(exported.name, len(rows)))
        archive.writestr("README.txt", "\n".join([*lines, ""]))
    file.seek(0)
    return file


def _describe(name: str, count: int) -> str:
    days = f" of the last {MAX_RANGE_DAYS} days" if name.startswith("usage") else ""
    older = " (the newest; the CSV of the page and the API have older ones)" if count >= MAX_EXPORT_ROWS else ""
    return f"{name}.csv: {count} rows{days}{older}"


@bp.get("/settings/export")
@require_permission("organization:write")
def show(form: Form | None = None) -> Response:
    """Show what an export contains, and its button."""
    return pages.render_page("dashboard/settings/export.html", form=form or Form(), max_rows=MAX_EXPORT_ROWS)


@bp.post("/settings/export")
@require_permission("organization:write")
@throttles.limit_exports
@form_view(EmptyForm(), form=show, requires_fresh_login=True)
def download(body: dict[str, Any]) -> Response:  # noqa: ARG001 - the form has no fields
    """Download the archive."""
    organization_id = g.principal.organization_id
    file = write_archive(organization_id)
    actor, target = audit_log.actor_for(g.principal), ("organization", organization_id)
    audit_log.record_event(engine.session(), organization_id, actor, "organization.exported", target)
    members.enqueue_notice(engine.session(), organization_id, actor, _NOTICE)
    response = Response(serving.iter_and_close(file), mimetype="application/zip")
    response.headers["Content-Disposition"] = f'attachment; filename="export-{clock.now():%Y-%m-%d}.zip"'
    return response
