"""Invoices, credit notes, wallet, line explanation, PDF."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g
from sqlalchemy import RowMapping

from saas_api.billing import credit_notes, invoice_documents, invoices, plans, previews, wallet
from saas_api.billing.credit_notes import CreditNoteView
from saas_api.billing.invoices import InvoiceWithPeriod, LineExplanation
from saas_api.billing.models import BillingPeriod, CreditNote, Invoice, InvoiceLine
from saas_api.billing.rating import explanation
from saas_api.billing.rating.bill import Bill, BillLine
from saas_api.billing.rating.charges import MeterPrice
from saas_api.billing.rating.explanation import ExplainedCharge, ExplainedProration
from saas_api.billing.schemas import (
    BillPreviewOut,
    CreditNotesOut,
    InvoiceDetailOut,
    InvoicesOut,
    InvoicesQuery,
    LineExplanationOut,
    WalletOut,
)
from saas_api.billing.wallet import GrantView
from saas_api.core import clock, ids, money
from saas_api.core.access import require_permission
from saas_api.core.db import engine
from saas_api.core.errors import ValidationFailed
from saas_api.core.fields import PageQuery
from saas_api.core.web import pages
from saas_api.core.web.endpoint import endpoint
from saas_api.usage.ledger import SliceTotals

bp = Blueprint("billing", __name__)
EVENT_CSV_COLUMNS = (
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
@require_permission("billing:read")
@endpoint(operation_id="explain_invoice_line", tag="billing", returns=LineExplanationOut())
def explain_line(invoice_id: UUID, line_id: UUID) -> dict[str, Any]:
    """Explain a line: the events counted, the price, the arithmetic and the rounding."""
    found = invoices.explain_line(engine.session(), g.principal.organization_id, invoice_id, line_id)
    invoice, explained, currency = found.invoice, found.explained, found.invoice.currency
    return {
        "invoice_id": invoice.id,
        "invoice_number": invoice.number,
        "line": _explained_line_body(found),
        "currency": currency,
        "price": found.price and _price(found.price, currency),
        "counted": found.counted and _counted_body(found.counted),
        "rated": explained.rated and _rated_body(explained.rated, currency),
        "before": explained.before and _rated_body(explained.before, currency),
        "proration": explained.proration and _proration(explained.proration, currency),
        "steps": explained.steps,
        "recomputed_amount": money.format_minor(explained.recomputed_minor, currency),
    }


@bp.get('/billing/invoices/<id("inv"):invoice_id>/lines/<id("lin"):line_id>/events.csv')
@require_permission("billing:read")
@endpoint(operation_id="download_invoice_line_events", tag="billing", produces="text/csv")
def download_line_events(invoice_id: UUID, line_id: UUID) -> Response:
    """Download the events behind a line.

    What was taken back stands there too, as a row below zero that names the event in `reversal_of`; the quantities add
    up to the line's.
    """
    invoice, line = invoices.get_line(engine.session(), g.principal.organization_id, invoice_id, line_id)
    rows = (list(_event(row)) for row in invoices.iter_line_events(invoices.line_slice(invoice, line)))
    return pages.csv_response(f"{invoice.number}-{line.position}-events.csv", EVENT_CSV_COLUMNS, rows)


def _event(row: RowMapping) -> Iterator[Any]:
    yield row["id"].hex
    yield clock.format_rfc3339(row["occurred_at"])
    yield clock.format_rfc3339(row["recorded_at"])
    yield row["meter_code"]
    yield Decimal(money.format_unit_price(row["quantity"]))
    yield row["source"]
    yield row["idempotency_key"]
    yield row["api_key_id"] and ids.format_id("key", row["api_key_id"])
    yield row["message_id"] and ids.format_id("msg", row["message_id"])
    yield row["reversal_of"] and row["reversal_of"].hex


def _explained_line_body(found: LineExplanation) -> dict[str, Any]:
    line = found.line
    return {
        "id": line.id,
        "kind": line.kind,
        "description": line.description,
        "plan": line.plan_version_id,
        "meter": line.meter_code,
        "unit": found.unit,
        "period": {"starts_at": line.service_starts_at, "ends_at": line.service_ends_at},
        "quantity": money.format_unit_price(line.quantity),
        "amount": money.format_minor(line.amount_minor, found.invoice.currency),
        "calculation": line.calculation,
    }


def _counted_body(counted: SliceTotals) -> dict[str, Any]:
    return {**vars(counted), "quantity": money.format_unit_price(counted.quantity)}


def _price(price: MeterPrice, currency: str) -> dict[str, Any]:
    return {
        "model": price.model,
        "tiers": [
            {
                "up_to": None if tier.up_to is None else money.format_unit_price(tier.up_to),
                "unit_price": money.format_unit_price(tier.unit_price),
                "flat_amount": money.format_minor(tier.flat_minor, currency),
            }
            for tier in price.tiers
        ],
        "package_size": money.format_unit_price(price.package_size) if price.model == "package" else None,
    }


def _rated_body(rated: ExplainedCharge, currency: str) -> dict[str, Any]:
    return {
        "quantity": money.format_unit_price(rated.quantity),
        "included": money.format_unit_price(rated.included),
        "billable": money.format_unit_price(rated.billable),
        "parts": [
            {
                "units": money.format_unit_price(part.units),
                "unit_price": money.format_unit_price(part.unit_price),
                "flat_amount": money.format_exact_amount(part.flat),
                "amount": money.format_exact_amount(part.amount),
            }
            for part in rated.parts
        ],
        "exact_amount": money.format_exact_amount(rated.exact),
        "max_amount": None if rated.cap is None else money.format_exact_amount(rated.cap),
        "amount": money.format_minor(rated.rounded_minor, currency),
    }


def _proration(proration: ExplainedProration, currency: str) -> dict[str, Any]:
    return {
        "full_amount": money.format_minor(proration.full_minor, currency),
        "used": explanation.format_duration(proration.used),
        "used_seconds": explanation.format_seconds(proration.used),
        "whole": explanation.format_duration(proration.whole),
        "whole_seconds": explanation.format_seconds(proration.whole),
        "exact_amount": money.format_exact_amount(proration.exact),
    }


FALLBACK_CURRENCY = "USD"


@bp.get("/billing/calculate")
@require_permission("billing:read")
@endpoint(operation_id="preview_current_period", tag="billing", returns=BillPreviewOut())
def preview_current_period() -> dict[str, Any]:
    """Show what closing the running period at this moment would charge."""
    found = previews.preview_current_period(engine.session(), g.principal.organization_id)
    draft = found.draft
    return {
        "period": found,
        "total_requests": found.total_requests,
        "lines": [_line(line, draft) for line in draft.lines],
        "total_amount": money.format_minor(draft.total_minor, draft.currency),
        "forecast_amount": money.format_minor(found.forecast.total_minor, draft.currency),
        "currency": draft.currency,
        "status": "calculating",
    }


@bp.get("/billing/history")
@require_permission("billing:read")
@endpoint(
    operation_id="list_invoices",
    tag="billing",
    query=InvoicesQuery(),
    returns=InvoicesOut(),
    errors=(ValidationFailed,),
)
def list_invoices(query: dict[str, Any]) -> dict[str, Any]:
    """List the invoices, newest first, and what they come to."""
    organization_id = g.principal.organization_id
    page = invoices.list_invoices(engine.session(), organization_id, query)
    sums = invoices.sum_invoices(engine.session(), organization_id)
    return {
        "invoices": [_invoice(billed) for billed in page.items],
        "summary": {
            "total_billed": money.format_minor(sums.billed_minor, FALLBACK_CURRENCY),
            "total_paid": money.format_minor(sums.settled_minor, FALLBACK_CURRENCY),
            "outstanding": money.format_minor(sums.outstanding_minor, FALLBACK_CURRENCY),
            "currency": FALLBACK_CURRENCY,
        },
        "pagination": page.pagination,
    }


@bp.get('/billing/invoices/<id("inv"):invoice_id>')
@require_permission("billing:read")
@endpoint(operation_id="get_invoice", tag="billing", returns=InvoiceDetailOut())
def show_invoice(invoice_id: UUID) -> dict[str, Any]:
    """Show an invoice: its lines with their calculation, its sums, and the credit notes on it."""
    shown = invoices.get_invoice_view(engine.session(), g.principal.organization_id, invoice_id)
    invoice, units = shown.invoice, plans.meter_units(engine.session())
    return {
        **_amounts_body(invoice),
        "id": invoice.id,
        "number": invoice.number,
        "status": invoice.status,
        "period": shown.period and _period(shown.period),
        "seller": _party(invoice.seller),
        "bill_to": _party(invoice.bill_to),
        "lines": [_invoice_line_body(line, invoice.currency, units) for line in shown.lines],
        "credit_notes": [_credit_note_body(note) for note in shown.credit_notes],
        "replaces_id": invoice.replaces_id,
        "issued_at": invoice.finalized_at,
        "due_date": invoice.due_at,
        "paid_at": invoice.paid_at,
        "voided_at": invoice.voided_at,
    }


@bp.get('/billing/invoices/<id("inv"):invoice_id>/pdf')
@require_permission("billing:read")
@endpoint(operation_id="download_invoice_pdf", tag="billing", produces="application/pdf")
def show_pdf(invoice_id: UUID) -> Response:
    """Download an invoice as PDF."""
    found = invoice_documents.invoice_document(engine.session(), g.principal.organization_id, invoice_id)
    answer = Response(invoice_documents.render_pdf(found), mimetype="application/pdf")
    answer.headers["Content-Disposition"] = f'attachment; filename="{found.number}.pdf"'
    return answer


def _amounts_body(invoice: Invoice) -> dict[str, str]:
    amounts = {
        "subtotal": invoice.subtotal_minor,
        "discount": invoice.discount_minor,
        "tax": invoice.tax_minor,
        "total_amount": invoice.total_minor,
        "credits_applied": invoice.credits_applied_minor,
        "credit_notes_applied": invoice.reduced_minor,
        "amount_paid": invoice.paid_minor,
        "amount_due": _amount_due(invoice),
    }
    return {name: money.format_minor(minor, invoice.currency) for name, minor in amounts.items()} | {
        "currency": invoice.currency
    }


def _amount_due(invoice: Invoice) -> int:
    return 0 if invoice.status == "void" else invoice.due_minor or 0


def _party(stored: Mapping[str, Any]) -> dict[str, Any]:
    address = stored.get("address")
    rows = [address] if isinstance(address, str) else address
    return {**stored, "address": rows} if rows else dict(stored)


def _invoice_line_body(line: InvoiceLine, currency: str, units: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": line.id,
        "kind": line.kind,
        "description": line.description,
        "plan": line.plan_version_id,
        "meter": line.meter_code,
        "unit": units.get(line.meter_code or ""),
        "period": {"starts_at": line.service_starts_at, "ends_at": line.service_ends_at},
        "quantity": money.format_unit_price(line.quantity),
        "amount": money.format_minor(line.amount_minor, currency),
        "calculation": line.calculation,
    }


def _credit_note_body(note: CreditNote) -> dict[str, Any]:
    return {
        "id": note.id,
        "number": note.number,
        "amount": money.format_minor(note.total_minor, note.currency),
        "reason": note.reason,
        "issued_at": note.issued_at,
    }


def _line(line: BillLine, draft: Bill) -> dict[str, Any]:
    return {
        "kind": line.kind,
        "description": line.description,
        "plan": line.version_id,
        "meter": line.meter,
        "quantity": money.format_unit_price(line.quantity),
        "amount": money.format_minor(line.amount_minor, draft.currency),
        "calculation": line.calculation,
    }


def _invoice(billed: InvoiceWithPeriod) -> dict[str, Any]:
    invoice, period = billed.invoice, billed.period
    return {
        "id": invoice.id,
        "number": invoice.number,
        "period": _period(period),
        "total_requests": billed.total_requests,
        "total_amount": money.format_minor(invoice.total_minor, invoice.currency),
        "amount_due": money.format_minor(_amount_due(invoice), invoice.currency),
        "currency": invoice.currency,
        "status": invoice.status,
        "due_date": invoice.due_at,
        "paid_at": invoice.paid_at,
    }


def _period(period: BillingPeriod) -> dict[str, Any]:
    return {"starts_at": period.starts_at, "ends_at": period.ends_at, "timezone": period.timezone}


@bp.get("/billing/wallet")
@require_permission("billing:read")
@endpoint(operation_id="get_wallet", tag="billing", query=PageQuery(), returns=WalletOut())
def show_wallet(query: dict[str, Any]) -> dict[str, Any]:
    """Show what the wallet holds, and its grants with what became of them, newest first."""
    organization_id = g.principal.organization_id
    page = wallet.list_grants(engine.session(), organization_id, query)
    held = wallet.wallet_balances(engine.session(), organization_id, clock.now())
    return {
        "balances": [
            {"amount": money.format_minor(minor, currency), "currency": currency}
            for currency, minor in sorted(held.items())
        ],
        "grants": [_grant(item) for item in page.items],
        "pagination": page.pagination,
    }


@bp.get("/billing/credit-notes")
@require_permission("billing:read")
@endpoint(operation_id="list_credit_notes", tag="billing", query=PageQuery(), returns=CreditNotesOut())
def list_credit_notes(query: dict[str, Any]) -> dict[str, Any]:
    """List the credit notes, newest first."""
    page = credit_notes.list_credit_notes(engine.session(), g.principal.organization_id, query)
    return {"credit_notes": [_note(item) for item in page.items], "pagination": page.pagination}


def _grant(item: GrantView) -> dict[str, Any]:
    grant = item.grant
    return {
        "id": grant.id,
        "kind": grant.kind,
        "amount": money.format_minor(grant.amount_minor, grant.currency),
        "remaining": money.format_minor(grant.remaining_minor, grant.currency),
        "currency": grant.currency,
        "effective_at": grant.effective_at,
        "expires_at": grant.expires_at,
        "created_at": grant.created_at,
        "entries": [
            {
                "amount": money.format_minor(entry.delta_minor, grant.currency),
                "reason": entry.reason,
                "invoice_id": entry.invoice_id,
                "at": entry.at,
            }
            for entry in item.entries
        ],
    }


def _note(item: CreditNoteView) -> dict[str, Any]:
    note = item.note
    return {
        "id": note.id,
        "number": note.number,
        "invoice_id": note.invoice_id,
        "invoice_number": item.invoice_number,
        "amount": money.format_minor(note.total_minor, note.currency),
        "to_due": money.format_minor(note.to_due_minor, note.currency),
        "to_wallet": money.format_minor(note.to_wallet_minor, note.currency),
        "to_refund": money.format_minor(note.to_refund_minor, note.currency),
        "currency": note.currency,
        "reason": note.reason,
        "memo": note.memo,
        "issued_at": note.issued_at,
        "lines": [
            {"line_id": line.invoice_line_id, "amount": money.format_minor(line.amount_minor, note.currency)}
            for line in item.lines
        ],
    }
