"""An invoice's rows as a document: texts and nothing else, from stored rows only, so that it stays what it was."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from saas_api.billing.models import CreditNote, Invoice, InvoiceLine
from saas_api.billing.queries import catalogue
from saas_api.billing.queries.invoices import Shown, show
from saas_api.billing.rules.document import DocumentLine, InvoiceDocument, Party, Sum
from saas_api.billing.rules.explaining import Explained, Rated, duration, explain, number, part_text
from saas_api.core import clock
from saas_api.core.money import exponent, unit_price_text

_STATUS = {"open": "Open", "paid": "Paid", "void": "Void", "uncollectible": "Written off"}


def invoice_document(session: Session, organization_id: UUID, invoice_id: UUID) -> InvoiceDocument:
    """A final invoice as a document.

    raises: NotFound
    """
    return document_of(show(session, organization_id, invoice_id), catalogue.units(session))


def document_of(shown: Shown, units: Mapping[str, str]) -> InvoiceDocument:
    """An invoice that is read already as a document.

    units: of every meter
    """
    invoice = shown.invoice
    zone = clock.zone(shown.period.timezone if shown.period else "UTC")
    return InvoiceDocument(
        title="Invoice",
        number=invoice.number or "",
        status=_STATUS[invoice.state],
        currency=invoice.currency,
        facts=list(_facts(shown, zone)),
        seller=_party(invoice.seller),
        buyer=_party(invoice.bill_to),
        lines=[_line(line, invoice.currency, units.get(line.meter_code or ""), zone) for line in shown.lines],
        sums=list(_sums(invoice)),
        notes=[_note(note, zone) for note in shown.credit_notes],
        watermark="Void" if invoice.state == "void" else "",
    )


def money(amount_minor: int, currency: str) -> str:
    """An amount for people, thousands apart."""
    return f"{Decimal(amount_minor).scaleb(-exponent(currency)):,f}"


def _facts(shown: Shown, zone: ZoneInfo) -> Iterator[tuple[str, str]]:
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


def _party(stored: Mapping[str, Any]) -> Party:
    rows: list[str] = []
    for name, value in stored.items():
        if name == "name" or not value:
            continue
        values = [str(item) for item in value] if isinstance(value, list) else str(value).splitlines()
        rows += [f"Tax id {values[0]}"] if name == "tax_id" else values
    return Party(str(stored.get("name") or ""), rows)


def _line(line: InvoiceLine, currency: str, unit: str | None, zone: ZoneInfo) -> DocumentLine:
    explained = explain(line.kind, line.calculation, currency, unit)
    named = f" {unit}{'' if line.quantity == 1 else 's'}" if unit else ""
    details = list(_details(explained, currency))
    if line.kind in {"base", "late_usage"} and line.service_starts_at and line.service_ends_at:
        details.insert(0, f"{_time(line.service_starts_at, zone)} to {_time(line.service_ends_at, zone)}")
    return DocumentLine(
        line.description,
        details,
        f"{number(line.quantity)}{named}",
        _unit_price(explained, currency),
        money(line.amount_minor, currency),
    )


def _details(explained: Explained, currency: str) -> Iterator[str]:
    rated, before, proration = explained.rated, explained.before, explained.proration
    if proration and proration.is_partial:
        price = money(proration.full_minor, currency)
        yield f"{duration(proration.used)} of {duration(proration.whole)} at {price}"
    elif rated and before:
        yield f"{_charge(rated, currency)} in all, less {_charge(before, currency)} invoiced before"
    elif rated:
        if rated.included:
            yield f"{number(rated.included)} included, {number(rated.billable)} charged"
        yield from (part_text(part) for part in rated.parts if len(rated.parts) > 1 or part.flat or rated.included)
        if rated.cap is not None and rated.exact > rated.cap:
            yield f"At most {number(rated.cap)} a period"


def _charge(rated: Rated, currency: str) -> str:
    return f"{money(rated.rounded_minor, currency)} for {number(rated.quantity)}"


def _unit_price(explained: Explained, currency: str) -> str:
    if explained.proration:
        return money(explained.proration.full_minor, currency)
    parts = explained.rated.parts if explained.rated and not explained.before else ()
    return unit_price_text(parts[0].unit_price) if len(parts) == 1 else ("in tiers" if parts else "")


def _sums(invoice: Invoice) -> Iterator[Sum]:
    currency = invoice.currency
    yield Sum("Subtotal", money(invoice.subtotal_minor, currency))
    if invoice.discount_minor:
        yield Sum("Discount", money(-invoice.discount_minor, currency))
    if invoice.tax_minor:
        yield Sum("Tax", money(invoice.tax_minor, currency))
    yield Sum("Total", money(invoice.total_minor, currency), is_strong=True)
    taken = (
        ("Wallet credit", invoice.credits_applied_minor),
        ("Credit notes", invoice.reduced_minor),
        ("Paid", invoice.paid_minor),
    )
    yield from (Sum(label, money(-minor, currency)) for label, minor in taken if minor)
    due = 0 if invoice.state == "void" else invoice.due_minor or 0
    yield Sum("Amount due", money(due, currency), is_strong=True)


def _note(note: CreditNote, zone: ZoneInfo) -> str:
    parts: Sequence[tuple[str, int]] = (
        ("off what is due", note.to_due_minor),
        ("to the wallet", note.to_wallet_minor),
        ("refunded", note.to_refund_minor),
    )
    where = ", ".join(f"{money(minor, note.currency)} {name}" for name, minor in parts if minor)
    return f"Credit note {note.number} of {_day(note.issued_at, zone)}: {where}. {note.reason}"


def _day(instant: datetime, zone: ZoneInfo) -> str:
    local = instant.astimezone(zone)
    return f"{local.day} {local:%B %Y}"


def _time(instant: datetime, zone: ZoneInfo) -> str:
    return f"{_day(instant, zone)} {instant.astimezone(zone):%H:%M}"
