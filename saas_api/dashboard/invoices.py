"""Pages of an invoice and its lines: detail, payment, PDF, print, events of a line as CSV."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from flask import Blueprint, Response, g, request, url_for

from saas_api.accounts import audit
from saas_api.billing import invoice_documents, invoice_mails, invoices, throttles
from saas_api.billing.invoices import InvoiceWithLines
from saas_api.billing.models import Invoice, InvoiceStatus
from saas_api.core import access, clock, formatting
from saas_api.core.access import require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.settings import setting
from saas_api.core.web import pages, portal_mount, templating
from saas_api.core.web.forms import EmptyForm, Form, form_view
from saas_api.core.web.pages import HTMX_STOP_POLLING, PAGE_SIZE
from saas_api.dashboard import context
from saas_api.payments import checkout, payments
from saas_api.payments.checkout import PaymentAlreadyPending, PaymentRequest
from saas_api.payments.models import Payment, PaymentStatus
from saas_api.payments.schemas import ProviderIn

bp = Blueprint("invoices", __name__)
bp.before_request(context.require_live_mode)


POLL_SECONDS = timedelta(minutes=2)
PROVIDER_LABELS = {
    "stripe": "Stripe",
    "paystack": "Paystack",
    "mock": "Mock checkout, no real money",
    "offline": "bank transfer",
}
_ENDS = {
    PaymentStatus.SUCCEEDED: ("Paid", "ok"),
    PaymentStatus.FAILED: ("Payment declined", "bad"),
    PaymentStatus.CANCELED: ("Payment canceled", "plain"),
    PaymentStatus.QUARANTINED: ("Payment under review", "warn"),
}


@bp.get('/billing/invoices/<id("inv"):invoice_id>')
@require_permission("billing:read")
def show(invoice_id: UUID, form: Form | None = None) -> Response:
    """Show an invoice. The page polls for two minutes while a payment is pending."""
    pending_payment = payments.find_pending_payment(engine.session(), context.current_organization_id(), invoice_id)
    poll_until = _polling_deadline()
    is_polling = pending_payment is not None and clock.now() < poll_until
    if pages.is_htmx_fragment() and is_polling:
        return Response(status=204)
    view = invoices.get_invoice_detail(engine.session(), context.current_organization_id(), invoice_id)
    invoice = view.invoice
    choices = checkout.list_providers_for(invoice)
    attempts = payments.list_payments(
        engine.session(), context.current_organization_id(), PageRequest(limit=PAGE_SIZE), invoice_id=invoice_id
    ).items
    return pages.render_page(
        "dashboard/billing/invoice.html",
        block="live",
        status=HTMX_STOP_POLLING if pages.is_htmx_fragment() else 200,
        form=_form_values(form or Form(), choices),
        invoice=invoice,
        document=invoice_documents.build_document(view),
        links=[url_for("dashboard.invoices.show_line", invoice_id=invoice_id, line_id=line.id) for line in view.lines],
        steps=list(_steps(view, attempts)),
        under_way=pending_payment,
        poll=is_polling and url_for(".show", invoice_id=invoice_id, until=int(poll_until.timestamp())),
        providers=[(name, PROVIDER_LABELS[name]) for name in choices],
        provider_names=PROVIDER_LABELS,
        is_payable=_is_payable(invoice),
        zone=view.timezone,
    )


@bp.post('/billing/invoices/<id("inv"):invoice_id>/pay')
@require_permission("billing:write")
@form_view(ProviderIn(), form=show)
def pay(invoice_id: UUID, body: dict[str, Any]) -> Any:
    """Start a payment of the amount due, or continue the pending one, at the provider's checkout page."""
    access.require_verified_email(g.principal)
    payment_request = PaymentRequest(invoice_id, provider=body["provider"])
    try:
        address = checkout.initiate_payment(
            context.current_organization_id(), payment_request, audit.actor_for(g.principal)
        ).checkout_url
    except PaymentAlreadyPending as pending:
        address = pending.details.get("payment_url")
        if not address:
            raise
    return redirect_to_provider(str(address), url_for(".show", invoice_id=invoice_id))


@bp.get('/billing/invoices/<id("inv"):invoice_id>.pdf')
@require_permission("billing:read")
def pdf(invoice_id: UUID) -> Response:
    """Download an invoice as PDF."""
    document = invoice_documents.get_document(engine.session(), context.current_organization_id(), invoice_id)
    response = Response(invoice_documents.render_pdf(document), mimetype="application/pdf")
    response.headers["Content-Disposition"] = f'attachment; filename="{document.number}.pdf"'
    return response


@bp.post('/billing/invoices/<id("inv"):invoice_id>/send')
@require_permission("billing:read")
@throttles.limit_invoice_copies
@form_view(EmptyForm(), form=show, is_idempotent=True)
def send(invoice_id: UUID, body: dict[str, Any]) -> Any:  # noqa: ARG001 - the address has it
    """Send the user the invoice by email, with its PDF."""
    access.require_verified_email(g.principal)
    address = invoice_mails.send_copy(engine.session(), context.current_organization_id(), invoice_id, g.principal.id)
    return pages.redirect_to("dashboard.invoices.show", invoice_id=invoice_id, _notice=f"Invoice sent to {address}.")


@bp.get('/billing/invoices/<id("inv"):invoice_id>/print')
@require_permission("billing:read")
def print_page(invoice_id: UUID) -> Response:
    """Show the document for printing; the PDF has the same texts."""
    document = invoice_documents.get_document(engine.session(), context.current_organization_id(), invoice_id)
    return pages.render_page("dashboard/billing/print.html", document=document, invoice_id=invoice_id)


def redirect_to_provider(address: str, back: str) -> Any:
    """Redirect to a page of a provider; one of another origin is linked, because browsers block form redirects to it.

    back: path of the page that the form is on
    """
    target = urlsplit(address)
    if address.startswith(f"{setting('APP_URL')}/") and not portal_mount.is_portal_request():
        return pages.redirect_to(target.path)
    return pages.render_page("dashboard/billing/redirect.html", address=address, host=target.hostname, back=back)


def _polling_deadline() -> datetime:
    """Returns when the page stops polling: two minutes after it was opened."""
    now = clock.now()
    requested = request.args.get("until", type=int) if pages.is_htmx_fragment() else None
    try:
        return (
            now + POLL_SECONDS
            if requested is None
            else min(datetime.fromtimestamp(requested, now.tzinfo), now + POLL_SECONDS)
        )
    except (OverflowError, ValueError, OSError):
        return now


def _form_values(form: Form, choices: list[str]) -> Form:
    return replace(form, values={"provider": choices[0] if choices else "", **form.values})


def _is_payable(invoice: Invoice) -> bool:
    return invoice.is_payable and bool(invoice.due_minor)


def _steps(view: InvoiceWithLines, attempts: Any) -> Iterator[dict[str, Any]]:
    """Yields the history of an invoice in order of time."""
    invoice = view.invoice
    steps: list[tuple[datetime | None, str, str, str]] = [(invoice.finalized_at, "Issued", "ok", "")]
    if invoice.due_at and invoice.status == InvoiceStatus.OPEN and invoice.due_minor:
        is_late = invoice.due_at < clock.now()
        steps.append((invoice.due_at, "Overdue since" if is_late else "Due", "warn" if is_late else "plain", ""))
    for note in view.credit_notes:
        note_text = f"{formatting.format_money(note.total_minor, note.currency)}. {note.reason}"
        steps.append((note.issued_at, f"Credit note {note.number}", "info", note_text))
    for payment in attempts:
        steps += _payment_attempts(payment)
    if invoice.status == InvoiceStatus.PAID and not any(
        payment.status == PaymentStatus.SUCCEEDED for payment in attempts
    ):
        steps.append(
            (invoice.paid_at, "Paid", "ok", "Covered by wallet credit or credit notes. No payment was required.")
        )
    if invoice.voided_at:
        steps.append((invoice.voided_at, "Void", "bad", "Nothing is due on this invoice."))
    if invoice.status == InvoiceStatus.UNCOLLECTIBLE:
        steps.append((None, "Written off", "bad", "This invoice can still be paid."))
    for at, text, kind, more in sorted(steps, key=lambda step: (step[0] is None, step[0] or clock.now())):
        time = templating.format_datetime(at, view.timezone) if at else ""
        yield {"text": text, "time": time, "kind": kind, "note": more}


def _payment_attempts(payment: Payment) -> Iterator[tuple[datetime | None, str, str, str]]:
    provider = PROVIDER_LABELS.get(payment.provider, payment.provider)
    amount = f"{formatting.format_money(payment.amount_minor, payment.currency)}, {provider}"
    if payment.provider != "offline":
        yield payment.created_at, "Payment started", "info", amount
    if payment.status in _ENDS:
        text, kind = _ENDS[payment.status]
        parts = [formatting.format_money(payment.captured_minor, payment.currency)] if payment.captured_minor else []
        parts += [payment.failure_code.replace("_", " ")] if payment.failure_code else []
        parts += (
            [f"{formatting.format_money(payment.refunded_minor, payment.currency)} refunded"]
            if payment.refunded_minor
            else []
        )
        yield payment.settled_at or payment.created_at, text, kind, ", ".join(parts)


@bp.get('/billing/invoices/<id("inv"):invoice_id>/lines/<id("lin"):line_id>')
@require_permission("billing:read")
def show_line(invoice_id: UUID, line_id: UUID) -> Response:
    """Explain a line: quantity, price and the calculation."""
    line_explanation = invoices.explain_line(engine.session(), context.current_organization_id(), invoice_id, line_id)
    return pages.render_page(
        "dashboard/billing/line.html",
        explanation=line_explanation,
        zone=context.current_zone(),
    )


@bp.get('/billing/invoices/<id("inv"):invoice_id>/lines/<id("lin"):line_id>/events.csv')
@require_permission("billing:read")
def download_line_events(invoice_id: UUID, line_id: UUID) -> Response:
    """Download the usage events of a line; reversals are negative, so the quantities add up."""
    invoice, line = invoices.get_line(engine.session(), context.current_organization_id(), invoice_id, line_id)
    events_of_line = invoices.get_events_of_line(engine.session(), invoice, line)
    rows = invoices.iter_line_event_rows(events_of_line, context.current_zone())
    return pages.csv_response(f"{invoice.number}-{line.position}-events.csv", invoices.LINE_EVENT_COLUMNS, rows)
