"""`GET /billing/calculate`, `/billing/history` and `/billing/invoices/{id}`: what is owed so far, and billed."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g

from saas_api.billing import service as billing
from saas_api.billing.models import BillingPeriod, CreditNote, Invoice, InvoiceLine
from saas_api.billing.queries import catalogue
from saas_api.billing.queries.bills.documents import invoice_document
from saas_api.billing.queries.invoices import Billed, history, show, totals
from saas_api.billing.rules import document
from saas_api.billing.rules.bill import Draft, Line
from saas_api.billing.schemas.invoices import CalculateOut, HistoryOut, HistoryQuery, InvoiceDetailOut
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.core.http import endpoint
from saas_api.core.money import minor_to_text, unit_price_text

bp = Blueprint("invoices", __name__)
CURRENCY = "USD"


@bp.get("/billing/calculate")
@require("billing:read")
@endpoint(operation_id="preview_current_period", tag="billing", returns=CalculateOut())
def calculate() -> dict[str, Any]:
    """Show what closing the running period at this moment would charge."""
    found = billing.preview(session(), g.principal.organization_id)
    draft = found.draft
    return {
        "period": found,
        "total_requests": found.total_requests,
        "lines": [_line(line, draft) for line in draft.lines],
        "total_amount": minor_to_text(draft.total_minor, draft.currency),
        "forecast_amount": minor_to_text(found.forecast.total_minor, draft.currency),
        "currency": draft.currency,
        "status": "calculating",
    }


@bp.get("/billing/history")
@require("billing:read")
@endpoint(operation_id="list_invoices", tag="billing", query=HistoryQuery(), returns=HistoryOut(), errors=(Invalid,))
def show_history(query: dict[str, Any]) -> dict[str, Any]:
    """List the invoices, newest first, and what they come to."""
    organization_id = g.principal.organization_id
    page = history(session(), organization_id, query)
    sums = totals(session(), organization_id)
    return {
        "invoices": [_invoice(billed) for billed in page.items],
        "summary": {
            "total_billed": minor_to_text(sums.billed_minor, CURRENCY),
            "total_paid": minor_to_text(sums.settled_minor, CURRENCY),
            "outstanding": minor_to_text(sums.outstanding_minor, CURRENCY),
            "currency": CURRENCY,
        },
        "pagination": page.pagination,
    }


@bp.get('/billing/invoices/<id("inv"):invoice_id>')
@require("billing:read")
@endpoint(operation_id="get_invoice", tag="billing", returns=InvoiceDetailOut())
def show_invoice(invoice_id: UUID) -> dict[str, Any]:
    """Show an invoice: its lines with their calculation, its sums, and the credit notes on it."""
    shown = show(session(), g.principal.organization_id, invoice_id)
    invoice, units = shown.invoice, catalogue.units(session())
    return {
        **_sums(invoice),
        "id": invoice.id,
        "number": invoice.number,
        "status": invoice.state,
        "period": shown.period and _period(shown.period),
        "seller": _party(invoice.seller),
        "bill_to": _party(invoice.bill_to),
        "lines": [_stored_line(line, invoice.currency, units) for line in shown.lines],
        "credit_notes": [_note(note) for note in shown.credit_notes],
        "replaces_id": invoice.replaces_id,
        "issued_at": invoice.finalized_at,
        "due_date": invoice.due_at,
        "paid_at": invoice.paid_at,
        "voided_at": invoice.voided_at,
    }


@bp.get('/billing/invoices/<id("inv"):invoice_id>/pdf')
@require("billing:read")
@endpoint(operation_id="download_invoice_pdf", tag="billing", produces="application/pdf")
def show_pdf(invoice_id: UUID) -> Response:
    """Download an invoice as PDF."""
    found = invoice_document(session(), g.principal.organization_id, invoice_id)
    answer = Response(document.pdf(found), mimetype="application/pdf")
    answer.headers["Content-Disposition"] = f'attachment; filename="{found.number}.pdf"'
    return answer


def _sums(invoice: Invoice) -> dict[str, str]:
    amounts = {
        "subtotal": invoice.subtotal_minor,
        "discount": invoice.discount_minor,
        "tax": invoice.tax_minor,
        "total_amount": invoice.total_minor,
        "credits_applied": invoice.credits_applied_minor,
        "credit_notes_applied": invoice.reduced_minor,
        "amount_paid": invoice.paid_minor,
        "amount_due": _due(invoice),
    }
    return {name: minor_to_text(minor, invoice.currency) for name, minor in amounts.items()} | {
        "currency": invoice.currency
    }


def _due(invoice: Invoice) -> int:
    return 0 if invoice.state == "void" else invoice.due_minor or 0


def _party(stored: Mapping[str, Any]) -> dict[str, Any]:
    address = stored.get("address")
    rows = [address] if isinstance(address, str) else address
    return {**stored, "address": rows} if rows else dict(stored)


def _stored_line(line: InvoiceLine, currency: str, units: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": line.id,
        "kind": line.kind,
        "description": line.description,
        "plan": line.plan_version_id,
        "meter": line.meter_code,
        "unit": units.get(line.meter_code or ""),
        "period": {"starts_at": line.service_starts_at, "ends_at": line.service_ends_at},
        "quantity": unit_price_text(line.quantity),
        "amount": minor_to_text(line.amount_minor, currency),
        "calculation": line.calculation,
    }


def _note(note: CreditNote) -> dict[str, Any]:
    return {
        "id": note.id,
        "number": note.number,
        "amount": minor_to_text(note.total_minor, note.currency),
        "reason": note.reason,
        "issued_at": note.issued_at,
    }


def _line(line: Line, draft: Draft) -> dict[str, Any]:
    return {
        "kind": line.kind,
        "description": line.description,
        "plan": line.version_id,
        "meter": line.meter,
        "quantity": unit_price_text(line.quantity),
        "amount": minor_to_text(line.amount_minor, draft.currency),
        "calculation": line.calculation,
    }


def _invoice(billed: Billed) -> dict[str, Any]:
    invoice, period = billed.invoice, billed.period
    return {
        "id": invoice.id,
        "number": invoice.number,
        "period": _period(period),
        "total_requests": billed.total_requests,
        "total_amount": minor_to_text(invoice.total_minor, invoice.currency),
        "amount_due": minor_to_text(_due(invoice), invoice.currency),
        "currency": invoice.currency,
        "status": invoice.state,
        "due_date": invoice.due_at,
        "paid_at": invoice.paid_at,
    }


def _period(period: BillingPeriod) -> dict[str, Any]:
    return {"starts_at": period.starts_at, "ends_at": period.ends_at, "timezone": period.timezone}
