"""An invoice as texts for PDF and print."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from saas_api.billing import invoices, plans
from saas_api.billing.invoices import InvoiceView
from saas_api.billing.models import CreditNote, Invoice, InvoiceLine
from saas_api.billing.rating import explanation
from saas_api.billing.rating.explanation import ExplainedCharge, LineBreakdown
from saas_api.billing.rating.invoice_layout import DocumentLine, DocumentParty, DocumentTotal, InvoiceDocument
from saas_api.core import clock, money


def render_pdf(document: InvoiceDocument) -> bytes:
    """The document as PDF; the same document gives the same bytes."""
    from saas_api.billing.rating import invoice_pdf  # noqa: PLC0415 - processes that make no PDF go without its library

    return invoice_pdf.draw_pdf(document)


_STATUS = {"open": "Open", "paid": "Paid", "void": "Void", "uncollectible": "Written off"}


def invoice_document(session: Session, organization_id: UUID, invoice_id: UUID) -> InvoiceDocument:
    """A final invoice as a document.

    raises: NotFound
    """
    return build_document(invoices.get_invoice_view(session, organization_id, invoice_id), plans.meter_units(session))


def build_document(shown: InvoiceView, units: Mapping[str, str]) -> InvoiceDocument:
    """An invoice that is read already as a document.

    units: of every meter
    """
    invoice = shown.invoice
    zone = clock.get_zone(shown.period.timezone if shown.period else "UTC")
    return InvoiceDocument(
        title="Invoice",
        number=invoice.number or "",
        status=_STATUS[invoice.status],
        currency=invoice.currency,
        facts=list(_header_rows(shown, zone)),
        seller=_party(invoice.seller),
        buyer=_party(invoice.bill_to),
        lines=[_line(line, invoice.currency, units.get(line.meter_code or ""), zone) for line in shown.lines],
        sums=list(_sums(invoice)),
        notes=[_credit_note_row(note, zone) for note in shown.credit_notes],
        watermark="Void" if invoice.status == "void" else "",
    )


def format_amount(amount_minor: int, currency: str) -> str:
    """An amount for people, thousands apart."""
    return f"{Decimal(amount_minor).scaleb(-money.currency_exponent(currency)):,f}"


def _header_rows(shown: InvoiceView, zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    invoice, period = shown.invoice, shown.period
    if invoice.finalized_at:
        yield "Issued", _day(invoice.finalized_at, zone)
    if invoice.due_at:
        yield "Due", _day(invoice.due_at, zone)
    if invoice.paid_at:
        yield "Paid", _day(invoice.paid_at, zone)
    if period:
        yield "Period from", _time(period.starts_at, zone)
        yield "to, not included", _time(period.ends_at, zone)
        yield "Time zone", zone.key
    yield "Currency", invoice.currency


def _party(stored: Mapping[str, Any]) -> DocumentParty:
    rows: list[str] = []
    for name, value in stored.items():
        if name == "name" or not value:
            continue
        values = [str(item) for item in value] if isinstance(value, list) else str(value).splitlines()
        rows += [f"Tax id {values[0]}"] if name == "tax_id" else values
    return DocumentParty(str(stored.get("name") or ""), rows)


def _line(line: InvoiceLine, currency: str, unit: str | None, zone: ZoneInfo) -> DocumentLine:
    explained = explanation.explain_calculation(line.kind, line.calculation, currency, unit)
    named = f" {unit}{'' if line.quantity == 1 else 's'}" if unit else ""
    details = list(_details(explained, currency))
    if line.kind in {"base", "late_usage"} and line.service_starts_at and line.service_ends_at:
        details.insert(0, f"{_time(line.service_starts_at, zone)} to {_time(line.service_ends_at, zone)}")
    return DocumentLine(
        line.description,
        details,
        f"{explanation.format_quantity(line.quantity)}{named}",
        _unit_price(explained, currency),
        format_amount(line.amount_minor, currency),
    )


def _details(explained: LineBreakdown, currency: str) -> Iterator[str]:
    rated, before, proration = explained.rated, explained.before, explained.proration
    if proration and proration.is_partial:
        price = format_amount(proration.full_minor, currency)
        yield f"{explanation.format_duration(proration.used)} of {explanation.format_duration(proration.whole)} at {price}"
    elif rated and before:
        yield f"{_charge(rated, currency)} in all, less {_charge(before, currency)} invoiced before"
    elif rated:
        if rated.included:
            yield f"{explanation.format_quantity(rated.included)} included, {explanation.format_quantity(rated.billable)} charged"
        yield from (
            explanation.format_part(part) for part in rated.parts if len(rated.parts) > 1 or part.flat or rated.included
        )
        if rated.cap is not None and rated.exact > rated.cap:
            yield f"At most {explanation.format_quantity(rated.cap)} a period"


def _charge(rated: ExplainedCharge, currency: str) -> str:
    return f"{format_amount(rated.rounded_minor, currency)} for {explanation.format_quantity(rated.quantity)}"


def _unit_price(explained: LineBreakdown, currency: str) -> str:
    if explained.proration:
        return format_amount(explained.proration.full_minor, currency)
    parts = explained.rated.parts if explained.rated and not explained.before else ()
    return money.format_unit_price(parts[0].unit_price) if len(parts) == 1 else ("in tiers" if parts else "")


def _sums(invoice: Invoice) -> Iterator[DocumentTotal]:
    currency = invoice.currency
    yield DocumentTotal("Subtotal", format_amount(invoice.subtotal_minor, currency))
    if invoice.discount_minor:
        yield DocumentTotal("Discount", format_amount(-invoice.discount_minor, currency))
    if invoice.tax_minor:
        yield DocumentTotal("Tax", format_amount(invoice.tax_minor, currency))
    yield DocumentTotal("Total", format_amount(invoice.total_minor, currency), is_strong=True)
    taken = (
        ("Wallet credit", invoice.credits_applied_minor),
        ("Credit notes", invoice.reduced_minor),
        ("Paid", invoice.paid_minor),
    )
    yield from (DocumentTotal(label, format_amount(-minor, currency)) for label, minor in taken if minor)
    due = 0 if invoice.status == "void" else invoice.due_minor or 0
    yield DocumentTotal("Amount due", format_amount(due, currency), is_strong=True)


def _credit_note_row(note: CreditNote, zone: ZoneInfo) -> str:
    parts: Sequence[tuple[str, int]] = (
        ("off what is due", note.to_due_minor),
        ("to the wallet", note.to_wallet_minor),
        ("refunded", note.to_refund_minor),
    )
    where = ", ".join(f"{format_amount(minor, note.currency)} {name}" for name, minor in parts if minor)
    return f"Credit note {note.number} of {_day(note.issued_at, zone)}: {where}. {note.reason}"


def _day(instant: datetime, zone: ZoneInfo) -> str:
    local = instant.astimezone(zone)
    return f"{local.day} {local:%B %Y}"


def _time(instant: datetime, zone: ZoneInfo) -> str:
    return f"{_day(instant, zone)} {instant.astimezone(zone):%H:%M}"
