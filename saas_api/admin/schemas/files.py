"""Lists of the console as CSV, with the API's names, ids and plain decimals."""

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from flask import Response

from saas_api.core import clock
from saas_api.core.fields import Page
from saas_api.core.ids import wire_id
from saas_api.core.money import minor_to_text
from saas_api.core.render import csv_response

Columns = Mapping[str, Callable[[Any], Any]]


def file_of(name: str, columns: Columns, found: Page) -> Response:
    """A list as a file.

    name: of the file, without its ending
    """
    rows = ([read(item) for read in columns.values()] for item in found.items)
    return csv_response(f"{name}.csv", list(columns), rows)


def _time(instant: datetime | None) -> str:
    return clock.rfc3339(instant) if instant else ""


def _money(minor: int | None, currency: str) -> Any:
    return "" if minor is None else Decimal(minor_to_text(minor, currency))


INVOICES: Columns = {
    "id": lambda row: wire_id("inv", row[0].id),
    "number": lambda row: row[0].number or "",
    "organization_id": lambda row: wire_id("org", row[0].organization_id),
    "organization": lambda row: row[1],
    "status": lambda row: row[0].state,
    "total_amount": lambda row: _money(row[0].total_minor, row[0].currency),
    "amount_due": lambda row: _money(row[0].due_minor, row[0].currency),
    "currency": lambda row: row[0].currency,
    "issued_at": lambda row: _time(row[0].finalized_at),
    "due_at": lambda row: _time(row[0].due_at),
}
PAYMENTS: Columns = {
    "id": lambda one: wire_id("pay", one.payment.id),
    "organization_id": lambda one: wire_id("org", one.payment.organization_id),
    "organization": lambda one: one.organization_name,
    "invoice_id": lambda one: wire_id("inv", one.payment.invoice_id),
    "provider": lambda one: one.payment.provider,
    "reference": lambda one: one.payment.provider_reference or "",
    "status": lambda one: one.payment.state,
    "failure_code": lambda one: one.payment.failure_code or "",
    "amount": lambda one: _money(one.payment.amount_minor, one.payment.currency),
    "captured": lambda one: _money(one.payment.captured_minor, one.payment.currency),
    "currency": lambda one: one.payment.currency,
    "created_at": lambda one: _time(one.payment.created_at),
}
EVENTS: Columns = {
    "provider": lambda event: event.provider,
    "event_id": lambda event: event.event_id,
    "type": lambda event: event.event_type,
    "reference": lambda event: event.reference or "",
    "status": lambda event: event.state,
    "attempts": lambda event: event.attempts,
    "error": lambda event: event.error or "",
    "received_at": lambda event: _time(event.received_at),
    "processed_at": lambda event: _time(event.processed_at),
}
ENDPOINTS: Columns = {
    "id": lambda row: wire_id("whe", row[0].id),
    "organization_id": lambda row: wire_id("org", row[0].organization_id),
    "organization": lambda row: row[1],
    "status": lambda row: row[0].status,
    "consecutive_failures": lambda row: row[0].consecutive_failures,
    "first_failure_at": lambda row: _time(row[0].first_failure_at),
    "last_success_at": lambda row: _time(row[0].last_success_at),
    "created_at": lambda row: _time(row[0].created_at),
}
DELIVERIES: Columns = {
    "id": lambda one: wire_id("whd", one.delivery.id),
    "event_id": lambda one: wire_id("evt", one.event.id),
    "event_type": lambda one: one.event.type,
    "cause": lambda one: one.delivery.cause,
    "status": lambda one: one.delivery.status,
    "attempts": lambda one: one.delivery.attempts,
    "last_status": lambda one: one.delivery.last_status or "",
    "error_code": lambda one: one.delivery.error_code or "",
    "created_at": lambda one: _time(one.delivery.created_at),
    "finished_at": lambda one: _time(one.delivery.finished_at),
}
MAILS: Columns = {
    "id": lambda row: str(row.id),
    "organization_id": lambda row: wire_id("org", row.organization_id) if row.organization_id else "",
    "template": lambda row: row.template,
    "recipient": lambda row: row.recipient,
    "status": lambda row: row.status,
    "attempts": lambda row: row.attempts,
    "error_code": lambda row: row.error_code or "",
    "created_at": lambda row: _time(row.created_at),
    "finished_at": lambda row: _time(row.finished_at),
}
