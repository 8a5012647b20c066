"""`/dashboard/billing/invoices/<id>`: the document, what became of it, paying it, the PDF and a page to print."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from flask import Blueprint, Response, g, request, url_for

from saas_api.billing.models import Invoice
from saas_api.billing.queries import catalogue
from saas_api.billing.queries.bills.documents import document_of, invoice_document
from saas_api.billing.queries.invoices import Shown
from saas_api.billing.queries.invoices import show as read
from saas_api.billing.rules import document
from saas_api.core import clock
from saas_api.core.access import check_verified, require
from saas_api.core.db import session
from saas_api.core.render import Form, page, see_other, submits
from saas_api.core.render.filters import money, when
from saas_api.core.render.pages import is_fragment
from saas_api.core.settings import setting
from saas_api.dashboard.routes.billing.door import LIMIT, STOP_POLLING, organization_id, zone
from saas_api.dashboard.schemas.billing import PayForm
from saas_api.organizations.service.audit import actor_of
from saas_api.payments import queries as payment_queries
from saas_api.payments import service as payments
from saas_api.payments.models import Payment

bp = Blueprint("invoices", __name__)
WATCHED = timedelta(minutes=2)
PROVIDERS = {
    "stripe": "Stripe",
    "paystack": "Paystack",
    "mock": "Mock checkout, no real money",
    "offline": "bank transfer",
}
_ENDS = {
    "succeeded": ("Paid", "ok"),
    "failed": ("Payment declined", "bad"),
    "canceled": ("Payment canceled", "plain"),
    "quarantined": ("Payment is being looked at", "warn"),
}


@bp.get('/billing/invoices/<id("inv"):invoice_id>')
@require("billing:read")
def show(invoice_id: UUID, form: Form | None = None) -> Response:
    """Show an invoice; while a payment of it is under way the page looks again, for two minutes."""
    under_way = payment_queries.in_flight(session(), organization_id(), invoice_id)
    until = _until()
    is_watched = under_way is not None and clock.now() < until
    if is_fragment() and is_watched:
        return Response(status=204)
    shown, here = read(session(), organization_id(), invoice_id), zone()
    invoice = shown.invoice
    asked = {"invoice_id": invoice_id, "cursor": None, "limit": LIMIT}
    choices = payments.offered_for(invoice)
    tried = payment_queries.history(session(), organization_id(), asked).items
    return page(
        "dashboard/billing/invoice.html",
        block="live",
        status=STOP_POLLING if is_fragment() else 200,
        form=_filled(form or Form(), choices),
        invoice=invoice,
        document=document_of(shown, catalogue.units(session())),
        links=[url_for("dashboard.billing.lines.show", invoice_id=invoice_id, line_id=line.id) for line in shown.lines],
        steps=list(_steps(shown, tried, here)),
        under_way=under_way,
        poll=is_watched and url_for(".show", invoice_id=invoice_id, until=int(until.timestamp())),
        providers=[(name, PROVIDERS[name]) for name in choices],
        provider_names=PROVIDERS,
        is_payable=_is_payable(invoice),
        zone=here,
    )


@bp.post('/billing/invoices/<id("inv"):invoice_id>/pay')
@require("billing:write")
@submits(PayForm(), again=show)
def pay(invoice_id: UUID, body: dict[str, Any]) -> Any:
    """Begin a payment of all that is due, or go on with the one that is under way, at the provider's page."""
    check_verified(g.principal)
    wanted = payments.Wanted(invoice_id, provider=body["provider"])
    try:
        address = payments.initiate(organization_id(), wanted, actor_of(g.principal)).checkout_url
    except payments.PaymentInFlight as other:
        address = other.details.get("payment_url")
        if not address:
            raise
    return _leave(str(address), invoice_id)


@bp.get('/billing/invoices/<id("inv"):invoice_id>.pdf')
@require("billing:read")
def pdf(invoice_id: UUID) -> Response:
    """Download an invoice as PDF."""
    found = invoice_document(session(), organization_id(), invoice_id)
    answer = Response(document.pdf(found), mimetype="application/pdf")
    answer.headers["Content-Disposition"] = f'attachment; filename="{found.number}.pdf"'
    return answer


@bp.get('/billing/invoices/<id("inv"):invoice_id>/print')
@require("billing:read")
def print_page(invoice_id: UUID) -> Response:
    """Show the document alone, to be printed; the PDF has the same texts."""
    found = invoice_document(session(), organization_id(), invoice_id)
    return page("dashboard/billing/print.html", document=found, invoice_id=invoice_id)


def _leave(address: str, invoice_id: UUID) -> Any:
    """Lead to a provider's page; to another origin by a page, for browsers block redirects of forms to elsewhere."""
    to = urlsplit(address)
    if address.startswith(f"{setting('APP_URL')}/"):
        return see_other(to.path)
    return page("dashboard/billing/leave.html", address=address, host=to.hostname, invoice_id=invoice_id)


def _until() -> datetime:
    """When the page stops looking again: two minutes after it was opened."""
    now = clock.now()
    given = request.args.get("until", type=int) if is_fragment() else None
    try:
        return now + WATCHED if given is None else min(datetime.fromtimestamp(given, now.tzinfo), now + WATCHED)
    except (OverflowError, ValueError, OSError):
        return now


def _filled(form: Form, choices: list[str]) -> Form:
    return replace(form, values={"provider": choices[0] if choices else "", **form.values})


def _is_payable(invoice: Invoice) -> bool:
    return invoice.state in ("open", "uncollectible") and bool(invoice.due_minor)


def _steps(shown: Shown, tried: Any, here: str) -> Iterator[dict[str, Any]]:
    """What became of an invoice, in order of time."""
    invoice = shown.invoice
    found: list[tuple[datetime | None, str, str, str]] = [(invoice.finalized_at, "Issued", "ok", "")]
    if invoice.due_at and invoice.state == "open" and invoice.due_minor:
        is_late = invoice.due_at < clock.now()
        found.append((invoice.due_at, "Overdue since" if is_late else "Due", "warn" if is_late else "plain", ""))
    for note in shown.credit_notes:
        taken = f"{money(note.total_minor, note.currency)}. {note.reason}"
        found.append((note.issued_at, f"Credit note {note.number}", "info", taken))
    for payment in tried:
        found += _tried(payment)
    if invoice.state == "paid" and not any(payment.state == "succeeded" for payment in tried):
        found.append((invoice.paid_at, "Paid", "ok", "By wallet credit or credit notes; no money was asked for."))
    if invoice.voided_at:
        found.append((invoice.voided_at, "Void", "bad", "Nothing is owed on it."))
    if invoice.state == "uncollectible":
        found.append((None, "Written off", "bad", "It can still be paid."))
    for at, text, kind, more in sorted(found, key=lambda step: (step[0] is None, step[0] or clock.now())):
        yield {"text": text, "time": when(at, here) if at else "", "kind": kind, "note": more}


def _tried(payment: Payment) -> Iterator[tuple[datetime | None, str, str, str]]:
    amount = f"{money(payment.amount_minor, payment.currency)}, {PROVIDERS.get(payment.provider, payment.provider)}"
    if payment.provider != "offline":
        yield payment.created_at, "Payment begun", "info", amount
    if payment.state in _ENDS:
        text, kind = _ENDS[payment.state]
        parts = [money(payment.captured_minor, payment.currency)] if payment.captured_minor else []
        parts += [payment.failure_code.replace("_", " ")] if payment.failure_code else []
        parts += [f"{money(payment.refunded_minor, payment.currency)} refunded"] if payment.refunded_minor else []
        yield payment.settled_at or payment.created_at, text, kind, ", ".join(parts)
