"""The texts of an invoice, for PDF and print."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.accounts import organizations
from saas_api.billing import invoices
from saas_api.billing.invoices import InvoiceWithLines
from saas_api.billing.models import CreditNote, Invoice, InvoiceLine, InvoiceStatus
from saas_api.billing.rating import explanation
from saas_api.billing.rating.bill import LineKind
from saas_api.billing.rating.explanation import ExplainedCharge, LineBreakdown
from saas_api.billing.rating.invoice_layout import (
    DocumentBrand,
    DocumentLine,
    DocumentParty,
    DocumentTotal,
    InvoiceDocument,
)
from saas_api.core import brand, formatting, ids
from saas_api.core.settings import setting
from saas_api.usage import meter_file

_STATUS_LABELS = {
    InvoiceStatus.OPEN: "Open",
    InvoiceStatus.PAID: "Paid",
    InvoiceStatus.VOID: "Void",
    InvoiceStatus.UNCOLLECTIBLE: "Written off",
}
_LINES_WITH_SERVICE_PERIOD = (LineKind.BASE, LineKind.LATE_USAGE)


def get_document(session: Session, organization_id: UUID, invoice_id: UUID) -> InvoiceDocument:
    """Get the document of a final invoice, in the locale of its organization and with the brand.

    raises: NotFound
    """
    with organizations.localized(session, organization_id):
        document = build_document(invoices.get_invoice_detail(session, organization_id, invoice_id))
    return replace(document, brand=_document_brand())


def render_pdf(document: InvoiceDocument) -> bytes:
    """Render a document as PDF; the same document gives the same bytes."""
    from saas_api.billing.rating import invoice_pdf  # noqa: PLC0415 - only processes that make PDFs load the library

    return invoice_pdf.draw_pdf(document)


def _document_brand() -> DocumentBrand:
    current = brand.current_brand()
    return DocumentBrand(
        current.color,
        current.logo.read_bytes() if current.logo else b"",
        current.logo.suffix.lower().removeprefix(".") if current.logo else "",
        f"Questions about this invoice? {current.contact_support}" if current.support_href else "",
    )


def build_document(detail: InvoiceWithLines) -> InvoiceDocument:
    """Write the texts of an invoice, with times in its zone."""
    invoice, zone = detail.invoice, detail.timezone
    return InvoiceDocument(
        title="Invoice",
        number=invoice.number or "",
        status=_STATUS_LABELS[invoice.status],
        currency=invoice.currency,
        facts=list(_facts(detail, zone)),
        seller=_party(invoice.seller),
        buyer=_party(invoice.bill_to),
        lines=[_line(line, invoice.currency, zone) for line in detail.lines],
        sums=list(_sums(invoice)),
        notes=[_credit_note_row(note, zone) for note in detail.credit_notes],
        watermark="Void" if invoice.status == InvoiceStatus.VOID else "",
        pay_url=_pay_url(invoice),
    )


def _pay_url(invoice: Invoice) -> str:
    if not (invoice.is_payable and invoice.due_minor):
        return ""
    return f"{setting('APP_URL')}/dashboard/billing/invoices/{ids.format_id('inv', invoice.id)}"


def _facts(detail: InvoiceWithLines, zone: str) -> Iterator[tuple[str, str]]:
    invoice, period = detail.invoice, detail.period
    if invoice.finalized_at:
        yield "Issued", formatting.format_date(invoice.finalized_at, zone)
    if invoice.due_at:
        yield "Due", detail.due_day
    if invoice.paid_at:
        yield "Paid", formatting.format_date(invoice.paid_at, zone)
    if period:
        yield "Period", formatting.format_period(period.starts_at, period.ends_at, zone)
        yield "Time zone", zone
    yield "Currency", invoice.currency


def _party(stored: Mapping[str, Any]) -> DocumentParty:
    rows: list[str] = []
    for name, value in stored.items():
        if name == "name" or not value:
            continue
        values = [str(item) for item in value] if isinstance(value, list) else str(value).splitlines()
        rows += [f"Tax id {values[0]}"] if name == "tax_id" else values
    return DocumentParty(str(stored.get("name") or ""), rows)


def _line(line: InvoiceLine, currency: str, zone: str) -> DocumentLine:
    explained = explanation.explain_calculation(line.kind, line.calculation, currency, line.unit)
    details = list(_details(explained, currency))
    if line.kind in _LINES_WITH_SERVICE_PERIOD and line.service_starts_at and line.service_ends_at:
        details.insert(0, formatting.format_period(line.service_starts_at, line.service_ends_at, zone))
    return DocumentLine(
        line.description,
        details,
        _quantity(line, explained),
        _unit_price(explained, currency),
        formatting.format_money(line.amount_minor, currency),
    )


def _quantity(line: InvoiceLine, explained: LineBreakdown) -> str:
    if explained.proration:
        return f"{formatting.format_number(explained.proration.months)} month"
    if not line.unit:
        return formatting.format_number(line.quantity)
    unit = line.unit if line.quantity == 1 else meter_file.plural_unit(line.unit)
    return f"{formatting.format_number(line.quantity)} {unit}"


def _details(explained: LineBreakdown, currency: str) -> Iterator[str]:
    rated, before, proration = explained.rated, explained.before, explained.proration
    if proration and proration.is_partial:
        price = formatting.format_money(proration.full_minor, currency)
        yield f"{explanation.format_share(proration.used, proration.whole)} at {price} a month"
    elif rated and before:
        yield f"{_charge(rated, currency)} in all, less {_charge(before, currency)} invoiced before"
    elif rated:
        if rated.included:
            included, charged = formatting.format_number(rated.included), formatting.format_number(rated.billable)
            yield f"{included} included, {charged} charged"
        yield from (
            explanation.format_part(part, currency)
            for part in rated.parts
            if len(rated.parts) > 1 or part.flat or rated.included
        )
        if rated.cap is not None and rated.exact > rated.cap:
            yield f"At most {formatting.format_unit_price(rated.cap, currency)} per period"


def _charge(rated: ExplainedCharge, currency: str) -> str:
    return f"{formatting.format_money(rated.rounded_minor, currency)} for {formatting.format_number(rated.quantity)}"


def _unit_price(explained: LineBreakdown, currency: str) -> str:
    if explained.proration:
        return formatting.format_money(explained.proration.full_minor, currency)
    parts = explained.rated.parts if explained.rated and not explained.before else ()
    return (
        formatting.format_unit_price(parts[0].unit_price, currency)
        if len(parts) == 1
        else ("in tiers" if parts else "")
    )


def _sums(invoice: Invoice) -> Iterator[DocumentTotal]:
    currency = invoice.currency
    yield DocumentTotal("Subtotal", formatting.format_money(invoice.subtotal_minor, currency))
    if invoice.discount_minor:
        yield DocumentTotal("Discount", formatting.format_money(-invoice.discount_minor, currency))
    if invoice.tax_minor:
        yield DocumentTotal("Tax", formatting.format_money(invoice.tax_minor, currency))
    yield DocumentTotal("Total", formatting.format_money(invoice.total_minor, currency), is_strong=True)
    reductions = (
        ("Wallet credit", invoice.credits_applied_minor),
        ("Credit notes", invoice.reduced_minor),
        ("Paid", invoice.paid_minor),
    )
    yield from (DocumentTotal(label, formatting.format_money(-minor, currency)) for label, minor in reductions if minor)
    yield DocumentTotal("Amount due", formatting.format_money(invoice.amount_due_minor, currency), is_strong=True)


def _credit_note_row(note: CreditNote, zone: str) -> str:
    parts = (
        ("off what is due", note.to_due_minor),
        ("to the wallet", note.to_wallet_minor),
        ("refunded", note.to_refund_minor),
    )
    allocation = ", ".join(f"{formatting.format_money(minor, note.currency)} {name}" for name, minor in parts if minor)
    return f"Credit note {note.number} of {formatting.format_date(note.issued_at, zone)}: {allocation}. {note.reason}"
