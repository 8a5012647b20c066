"""HTTP API of invoices, the explanation of their lines, credit notes and the wallet."""

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, g

from saas_api.accounts.organizations import OrganizationClosed
from saas_api.billing import (
    credit_notes,
    current_period,
    invoice_documents,
    invoice_mails,
    invoices,
    organization_closing,
    throttles,
    wallet,
)
from saas_api.billing.current_period import CurrentPeriod
from saas_api.billing.invoices import InvoiceWithLines, LineExplanation
from saas_api.billing.organization_closing import ClosedOrganization, ClosingPreview
from saas_api.billing.schemas import (
    ClosedOrganizationOut,
    CloseOrganizationIn,
    ClosingPreviewOut,
    CreditNotesOut,
    CurrentBillOut,
    InvoiceDetailOut,
    InvoicesOut,
    InvoicesQuery,
    LineExplanationOut,
    SentInvoiceOut,
    WalletOut,
)
from saas_api.core import access, clock
from saas_api.core.access import EmailNotVerified, FreshLoginRequired, require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.errors import TooManyRequests, ValidationFailed
from saas_api.core.fields import PageQuery
from saas_api.core.web import pages
from saas_api.core.web.endpoint import ViewResult, endpoint

bp = Blueprint("billing", __name__)


@bp.get("/billing/calculate")
@require_permission("billing:read")
@endpoint(operation_id="get_current_bill", tag="billing", reads_replica=True, returns=CurrentBillOut())
def show_current_bill() -> CurrentPeriod:
    """Show the bill of the current period: its cost so far by line, and a forecast."""
    return current_period.read_current_period(engine.session(), g.principal.organization_id)


@bp.get("/billing/history")
@require_permission("billing:read")
@endpoint(
    operation_id="list_invoices",
    tag="billing",
    reads_replica=True,
    query=InvoicesQuery(),
    returns=InvoicesOut(),
    errors=(ValidationFailed,),
)
def list_invoices(query: dict[str, Any]) -> dict[str, Any]:
    """List the invoices, newest first, with their totals."""
    organization_id = g.principal.organization_id
    request, filters = PageRequest.from_query(query)
    page = invoices.list_invoices(engine.session(), organization_id, request, **filters)
    return {
        "invoices": page.items,
        "summary": invoices.sum_invoices(engine.session(), organization_id),
        "pagination": page.pagination,
    }


@bp.get('/billing/invoices/<id("inv"):invoice_id>')
@require_permission("billing:read")
@endpoint(operation_id="get_invoice", tag="billing", reads_replica=True, returns=InvoiceDetailOut())
def show_invoice(invoice_id: UUID) -> InvoiceWithLines:
    """Show an invoice: its lines with their calculation, its sums, and the credit notes on it."""
    return invoices.get_invoice_detail(engine.session(), g.principal.organization_id, invoice_id)


@bp.get('/billing/invoices/<id("inv"):invoice_id>/pdf')
@require_permission("billing:read")
@endpoint(operation_id="download_invoice_pdf", tag="billing", reads_replica=True, produces="application/pdf")
def show_pdf(invoice_id: UUID) -> Response:
    """Download an invoice as PDF."""
    document = invoice_documents.get_document(engine.session(), g.principal.organization_id, invoice_id)
    response = Response(invoice_documents.render_pdf(document), mimetype="application/pdf")
    response.headers["Content-Disposition"] = f'attachment; filename="{document.number}.pdf"'
    return response


@bp.post('/billing/invoices/<id("inv"):invoice_id>/send')
@require_permission("billing:read")
@throttles.limit_invoice_copies
@endpoint(
    operation_id="send_invoice",
    tag="billing",
    returns=SentInvoiceOut(),
    status=202,
    errors=(EmailNotVerified, TooManyRequests),
)
def send_invoice(invoice_id: UUID) -> Any:
    """Send the calling user the invoice by email, with its PDF."""
    access.require_verified_email(g.principal)
    principal = g.principal
    address = invoice_mails.send_copy(engine.session(), principal.organization_id, invoice_id, principal.id)
    return ViewResult({"sent_to": address}, message="Queued.")


@bp.get('/billing/invoices/<id("inv"):invoice_id>/lines/<id("lin"):line_id>/explain')
@require_permission("billing:read")
@endpoint(operation_id="explain_invoice_line", tag="billing", reads_replica=True, returns=LineExplanationOut())
def explain_line(invoice_id: UUID, line_id: UUID) -> LineExplanation:
    """Explain a line: the events counted, the price, the arithmetic and the rounding."""
    return invoices.explain_line(engine.session(), g.principal.organization_id, invoice_id, line_id)


@bp.get('/billing/invoices/<id("inv"):invoice_id>/lines/<id("lin"):line_id>/events.csv')
@require_permission("billing:read")
@endpoint(
    operation_id="download_invoice_line_events",
    tag="billing",
    reads_replica=True,
    produces="text/csv",
    errors=(invoices.UsageArchived,),
)
def download_line_events(invoice_id: UUID, line_id: UUID) -> Response:
    """Download the events behind a line.

    A reversal is a row with a negative quantity that names the event in `reversal_of`, so the quantities add up to that
    of the line.
    """
    invoice, line = invoices.get_line(engine.session(), g.principal.organization_id, invoice_id, line_id)
    rows = invoices.iter_line_event_rows(invoices.get_events_of_line(engine.session(), invoice, line))
    return pages.csv_response(f"{invoice.number}-{line.position}-events.csv", invoices.LINE_EVENT_COLUMNS, rows)


@bp.get("/billing/credit-notes")
@require_permission("billing:read")
@endpoint(
    operation_id="list_credit_notes", tag="billing", reads_replica=True, query=PageQuery(), returns=CreditNotesOut()
)
def list_credit_notes(query: dict[str, Any]) -> dict[str, Any]:
    """List the credit notes, newest first."""
    request, _ = PageRequest.from_query(query)
    page = credit_notes.list_credit_notes(engine.session(), g.principal.organization_id, request)
    return {"credit_notes": page.items, "pagination": page.pagination}


@bp.get("/organization/close")
@require_permission("organization:close")
@endpoint(
    operation_id="preview_organization_closing",
    tag="organizations",
    returns=ClosingPreviewOut(),
    errors=(OrganizationClosed,),
)
def preview_closing() -> ClosingPreview:
    """Show what is open before the organization is closed: the final bill, unpaid invoices, credit and keys."""
    return organization_closing.preview_closing(g.principal.organization_id)


@bp.post("/organization/close")
@require_permission("organization:close")
@endpoint(
    operation_id="close_organization",
    tag="organizations",
    body=CloseOrganizationIn(),
    returns=ClosedOrganizationOut(),
    errors=(ValidationFailed, OrganizationClosed, FreshLoginRequired),
)
def close_organization(body: dict[str, Any]) -> ClosedOrganization:
    """Close the organization for good: its keys are revoked and the current period is invoiced now.

    Its members still read, and pay its invoices.
    """
    return organization_closing.close_as_owner(engine.session(), g.principal, body["name"])


@bp.get("/billing/wallet")
@require_permission("billing:read")
@endpoint(operation_id="get_wallet", tag="billing", reads_replica=True, query=PageQuery(), returns=WalletOut())
def show_wallet(query: dict[str, Any]) -> dict[str, Any]:
    """Show the balances of the wallet, and its grants with their entries, newest first."""
    organization_id = g.principal.organization_id
    request, _ = PageRequest.from_query(query)
    page = wallet.list_grants(engine.session(), organization_id, request)
    balances = wallet.wallet_balances(engine.session(), organization_id, clock.now())
    return {
        "balances": [{"amount_minor": minor, "currency": currency} for currency, minor in sorted(balances.items())],
        "grants": page.items,
        "pagination": page.pagination,
    }
