"""The texts of a printed invoice, in the order in which PDF and page show them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DocumentParty:
    """Seller or buyer.

    rows: address, tax id and the like
    """

    name: str
    rows: Sequence[str] = ()


@dataclass(frozen=True)
class DocumentLine:
    """A line with its texts.

    details: how the amount was calculated, a row each
    """

    description: str
    details: Sequence[str]
    quantity: str
    unit_price: str
    amount: str


@dataclass(frozen=True)
class DocumentTotal:
    """A row below the lines.

    is_strong: of the total and the amount due
    """

    label: str
    amount: str
    is_strong: bool = False


@dataclass(frozen=True)
class DocumentBrand:
    """The brand of the PDF.

    color: "#rrggbb" of the title and the link; "" for that of the text
    logo: an SVG or PNG file; b"" for none
    logo_format: "svg" or "png"
    contact: where customers turn to, as a sentence; "" for nowhere
    """

    color: str = ""
    logo: bytes = b""
    logo_format: str = "svg"
    contact: str = ""


@dataclass(frozen=True)
class InvoiceDocument:
    """A printed invoice.

    facts: label and value, such as ("Issued", "1 May 2026")
    watermark: text across every page; empty for none
    pay_url: page on which the amount due can be paid; empty when nothing can be paid
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
    pay_url: str = ""
    brand: DocumentBrand = DocumentBrand()
