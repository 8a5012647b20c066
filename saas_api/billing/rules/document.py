"""An invoice as a document: strings in, PDF out; a page to print is made of the same strings."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Party:
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
class Sum:
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
    seller: Party
    buyer: Party
    lines: Sequence[DocumentLine]
    sums: Sequence[Sum]
    notes: Sequence[str] = ()
    watermark: str = ""


def pdf(document: InvoiceDocument) -> bytes:
    """The document as PDF; the same document gives the same bytes."""
    from saas_api.billing.rules.drawing import draw  # noqa: PLC0415 - processes that make no PDF go without its library

    return draw(document)
