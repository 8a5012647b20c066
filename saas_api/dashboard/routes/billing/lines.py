"""`/dashboard/billing/invoices/<id>/lines/<id>`: how an amount comes about, and the events behind it as a table."""

from decimal import Decimal
from typing import Any
from uuid import UUID

from flask import Blueprint, Response
from sqlalchemy import RowMapping

from saas_api.billing.queries.bills.explain import explain_line, line_events, slice_of
from saas_api.billing.queries.invoices import get_line
from saas_api.billing.rules.explaining import exact_text, number
from saas_api.core.access import require
from saas_api.core.clock import rfc3339
from saas_api.core.db import session
from saas_api.core.ids import wire_id
from saas_api.core.money import unit_price_text
from saas_api.core.render import csv_response, page
from saas_api.dashboard.routes.billing.door import organization_id, zone

bp = Blueprint("lines", __name__)
COLUMNS = (
    *("event_id", "occurred_at", "recorded_at", "meter", "quantity", "source", "idempotency_key", "api_key_id"),
    *("message_id", "reversal_of"),
)


@bp.get('/billing/invoices/<id("inv"):invoice_id>/lines/<id("lin"):line_id>')
@require("billing:read")
def show(invoice_id: UUID, line_id: UUID) -> Response:
    """Explain a line: what was counted, at what price, and the arithmetic."""
    found = explain_line(session(), organization_id(), invoice_id, line_id)
    return page(
        "dashboard/billing/line.html", found=found, exact=exact_text, plain=unit_price_text, amount=number, zone=zone()
    )


@bp.get('/billing/invoices/<id("inv"):invoice_id>/lines/<id("lin"):line_id>/events.csv')
@require("billing:read")
def events(invoice_id: UUID, line_id: UUID) -> Response:
    """Download the events behind a line; what was taken back stands there below zero, so they add up."""
    invoice, line = get_line(session(), organization_id(), invoice_id, line_id)
    rows = (_event(row) for row in line_events(slice_of(invoice, line)))
    return csv_response(f"{invoice.number}-{line.position}-events.csv", COLUMNS, rows)


def _event(row: RowMapping) -> tuple[Any, ...]:
    return (
        *(row["id"].hex, rfc3339(row["occurred_at"]), rfc3339(row["recorded_at"]), row["meter_code"]),
        *(Decimal(unit_price_text(row["quantity"])), row["source"], row["idempotency_key"]),
        row["api_key_id"] and wire_id("key", row["api_key_id"]),
        row["message_id"] and wire_id("msg", row["message_id"]),
        row["reversal_of"] and row["reversal_of"].hex,
    )
