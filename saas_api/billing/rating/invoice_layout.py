"""Dataclasses of the printed invoice."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DocumentParty:
    """Who an invoice is from, or to.

    rows: address, tax id and the like, a row each
    """

    name: str
    rows: Sequence[str] = ()


@dataclass(frozen=True)
class DocumentLine:
    """A line of an invoice.

    details: how the amount comes about, a row each
    """

    description: str
    details: Sequence[str]
    quantity: str
    unit_price: str
    amount: str


@dataclass(frozen=True)
class DocumentTotal:
    """A row below the lines.

    is_strong: the total, and what is due
    """

    label: str
    amount: str
    is_strong: bool = False


@dataclass(frozen=True)
class InvoiceDocument:
    """Everything an invoice shows, as text.

    facts: pairs such as ("Issued", "1 May 2026")
    watermark: across every page, or nothing
    """

    title: str
    number: str
    status: str
    currency: str
    facts: Sequence[tuple[str, str]]
    seller: DocumentParty
    buyer: DocumentParty
    lines: Sequence[DocumentLine]
    sums: Sequence[DocumentTotal]
    notes: Sequence[str] = ()
    watermark: str = ""
