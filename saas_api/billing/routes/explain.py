"""`GET /billing/invoices/{id}/lines/{line_id}/explain` and `/events.csv`: how an amount comes about."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g
from sqlalchemy import RowMapping

from saas_api.billing.queries.bills.explain import LineExplained, explain_line, line_events, slice_of
from saas_api.billing.queries.invoices import get_line
from saas_api.billing.rules.explaining import Proration, Rated, duration, seconds
from saas_api.billing.rules.rating import Price
from saas_api.billing.schemas.invoices import ExplainOut
from saas_api.core.access import require
from saas_api.core.clock import rfc3339
from saas_api.core.db import session
from saas_api.core.http import endpoint
from saas_api.core.ids import wire_id
from saas_api.core.money import amount_text, minor_to_text, unit_price_text
from saas_api.core.render import csv_response
from saas_api.usage.queries.events import Counted

bp = Blueprint("explain", __name__)
COLUMNS = (
    "event_id",
    "occurred_at",
    "recorded_at",
    "meter",
    "quantity",
    "source",
    "idempotency_key",
    "api_key_id",
    "message_id",
    "reversal_of",
)


@bp.get('/billing/invoices/<id("inv"):invoice_id>/lines/<id("lin"):line_id>/explain')
@require("billing:read")
@endpoint(operation_id="explain_invoice_line", tag="billing", returns=ExplainOut())
def explain(invoice_id: UUID, line_id: UUID) -> dict[str, Any]:
    """Explain a line: the events counted, the price, the arithmetic and the rounding."""
    found = explain_line(session(), g.principal.organization_id, invoice_id, line_id)
    invoice, explained, currency = found.invoice, found.explained, found.invoice.currency
    return {
        "invoice_id": invoice.id,
        "invoice_number": invoice.number,
        "line": _line(found),
        "currency": currency,
        "price": found.price and _price(found.price, currency),
        "counted": found.counted and _counted(found.counted),
        "rated": explained.rated and _rated(explained.rated, currency),
        "before": explained.before and _rated(explained.before, currency),
        "proration": explained.proration and _proration(explained.proration, currency),
        "steps": explained.steps,
        "recomputed_amount": minor_to_text(explained.recomputed_minor, currency),
    }


@bp.get('/billing/invoices/<id("inv"):invoice_id>/lines/<id("lin"):line_id>/events.csv')
@require("billing:read")
@endpoint(operation_id="download_invoice_line_events", tag="billing", produces="text/csv")
def list_events(invoice_id: UUID, line_id: UUID) -> Response:
    """Download the events behind a line.

    What was taken back stands there too, as a row below zero that names the event in `reversal_of`; the quantities add
    up to the line's.
    """
    invoice, line = get_line(session(), g.principal.organization_id, invoice_id, line_id)
    rows = (list(_event(row)) for row in line_events(slice_of(invoice, line)))
    return csv_response(f"{invoice.number}-{line.position}-events.csv", COLUMNS, rows)


def _event(row: RowMapping) -> Iterator[Any]:
    yield row["id"].hex
    yield rfc3339(row["occurred_at"])
    yield rfc3339(row["recorded_at"])
    yield row["meter_code"]
    yield Decimal(unit_price_text(row["quantity"]))
    yield row["source"]
    yield row["idempotency_key"]
    yield row["api_key_id"] and wire_id("key", row["api_key_id"])
    yield row["message_id"] and wire_id("msg", row["message_id"])
    yield row["reversal_of"] and row["reversal_of"].hex


def _line(found: LineExplained) -> dict[str, Any]:
    line = found.line
    return {
        "id": line.id,
        "kind": line.kind,
        "description": line.description,
        "plan": line.plan_version_id,
        "meter": line.meter_code,
        "unit": found.unit,
        "period": {"starts_at": line.service_starts_at, "ends_at": line.service_ends_at},
        "quantity": unit_price_text(line.quantity),
        "amount": minor_to_text(line.amount_minor, found.invoice.currency),
        "calculation": line.calculation,
    }


def _counted(counted: Counted) -> dict[str, Any]:
    return {**vars(counted), "quantity": unit_price_text(counted.quantity)}


def _price(price: Price, currency: str) -> dict[str, Any]:
    return {
        "model": price.model,
        "tiers": [
            {
                "up_to": None if tier.up_to is None else unit_price_text(tier.up_to),
                "unit_price": unit_price_text(tier.unit_price),
                "flat_amount": minor_to_text(tier.flat_minor, currency),
            }
            for tier in price.tiers
        ],
        "package_size": unit_price_text(price.package_size) if price.model == "package" else None,
    }


def _rated(rated: Rated, currency: str) -> dict[str, Any]:
    return {
        "quantity": unit_price_text(rated.quantity),
        "included": unit_price_text(rated.included),
        "billable": unit_price_text(rated.billable),
        "parts": [
            {
                "units": unit_price_text(part.units),
                "unit_price": unit_price_text(part.unit_price),
                "flat_amount": amount_text(part.flat),
                "amount": amount_text(part.amount),
            }
            for part in rated.parts
        ],
        "exact_amount": amount_text(rated.exact),
        "max_amount": None if rated.cap is None else amount_text(rated.cap),
        "amount": minor_to_text(rated.rounded_minor, currency),
    }


def _proration(proration: Proration, currency: str) -> dict[str, Any]:
    return {
        "full_amount": minor_to_text(proration.full_minor, currency),
        "used": duration(proration.used),
        "used_seconds": seconds(proration.used),
        "whole": duration(proration.whole),
        "whole_seconds": seconds(proration.whole),
        "exact_amount": amount_text(proration.exact),
    }
