"""The invoice as PDF: its content, its reproducible bytes, and names that contain markup or other scripts."""

import base64
import io
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from unittest import mock

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pypdf import PdfReader

from saas_api.billing import invoice_documents
from saas_api.billing.rating import explanation
from saas_api.billing.rating.invoice_layout import DocumentLine, DocumentParty, DocumentTotal, InvoiceDocument
from saas_api.core import brand, ids
from tests.support import billing_actions as books
from tests.support import pdf
from tests.support.billing import day
from tests.support.billing_reads import BillingReader, sign_up_for_billing
from tests.support.pdf import DrawnGlyph

BARE = InvoiceDocument(
    title="Invoice",
    number="INV-000001",
    status="Open",
    currency="USD",
    facts=(("Issued", "1 May 2026"), ("Due", "15 May 2026")),
    seller=DocumentParty("saas-api", ("1 Main Street",)),
    buyer=DocumentParty("Acme"),
    lines=(DocumentLine("Starter plan", (), "1", "29.00", "29.00"),),
    sums=(DocumentTotal("Total", "29.00", is_strong=True),),
)

# Names of each script that has an official use, and of those that a name may borrow from.
NAMES = {
    "Latin": "Żółć ₦aira €uro Công ty Việt Nam",
    "Greek": "Ελληνική Εταιρεία",
    "Cyrillic": "Общество Ёж",
    "Arabic": "شركة الأمل للتجارة",
    "Persian and Urdu": "شرکت پیشگامان گچ ڈاکٹر ہے",
    "Armenian": "Ընկերություն",
    "Bengali": "বাংলা কোম্পানি ক্ষেত্র",
    "Devanagari": "हिन्दी कंपनी क्षेत्र",
    "Ethiopic": "ኢትዮጵያ ኩባንያ",
    "Georgian": "კომპანია",
    "Gujarati": "ગુજરાતી કંપની",
    "Gurmukhi": "ਪੰਜਾਬੀ ਕੰਪਨੀ",
    "Hebrew": "חברה שָׁלוֹם",
    "Kannada": "ಕನ್ನಡ ಕಂಪನಿ",
    "Khmer": "ក្រុមហ៊ុន",
    "Lao": "ບໍລິສັດ",
    "Malayalam": "മലയാളം കമ്പനി",
    "Myanmar": "မြန်မာ ကုမ္ပဏီ",
    "Oriya": "ଓଡ଼ିଆ କମ୍ପାନୀ",
    "Sinhala": "සිංහල සමාගම",
    "Tamil": "தமிழ் நிறுவனம்",
    "Telugu": "తెలుగు కంపెనీ",
    "Thai": "บริษัทตัวอย่างจำกัด",
    "Simplified Chinese": "中国示例有限公司",
    "Traditional Chinese": "臺灣範例股份有限公司",
    "Japanese": "株式会社サンプルひらがな",
    "Korean": "주식회사 예시",
    "Symbols": "①②③ ✓ ™ 😀",
}

LOGOS = {
    "logo.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="80" height="20"><rect width="80" height="20"/></svg>',
    "logo.png": base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    ),
}
PAGE_WIDTH = 595  # points


def pages(content: bytes) -> list[str]:
    return [page.extract_text() for page in PdfReader(io.BytesIO(content)).pages]


def text_of(content: bytes) -> str:
    return " ".join(" ".join(pages(content)).split())


def pdf_with_buyer(name: str, *rows: str) -> bytes:
    return invoice_documents.render_pdf(replace(BARE, buyer=DocumentParty(name, rows)))


def many(count: int) -> InvoiceDocument:
    lines = [DocumentLine(f"Line number {n}", ("2 x 3",), "12,345 segments", "0.01", "1.00") for n in range(count)]
    return replace(BARE, lines=lines)


@pytest.fixture
def acme(client: FlaskClient) -> BillingReader:
    """April on starter: 8,050 segments and 62,345 emails come to 71.85."""
    reader = sign_up_for_billing(client)
    with reader.app_context() as account:
        account.use(8_050, at=day(10))
        account.use(62_345, "email", at=day(12))
    reader.close()
    return reader


def download(reader: BillingReader) -> bytes:
    response = reader.request(f"/billing/invoices/{reader.newest_invoice()['id']}/pdf")
    assert response.status_code == 200
    return bytes(response.data)


def stored(reader: BillingReader) -> InvoiceDocument:
    invoice_id = ids.parse_id("inv", reader.newest_invoice()["id"])
    with reader.app_context() as account, account.transaction() as session:
        return invoice_documents.get_document(session, account.id, invoice_id)


def test_pdf_shows_parties_dates_lines_and_sums(acme: BillingReader) -> None:
    invoice = acme.newest_invoice()
    text = text_of(download(acme))
    for expected in (
        invoice["number"],
        "saas-api",
        "Bill to Acme",
        "Period Apr 1 \N{EN DASH} Apr 30, 2026",
        "UTC",
        "Starter plan",
        "SMS, Starter plan",
        "1 month $29.00",
        "5,000 included, 3,050 charged",
        "8,050 segments $0.01 $30.50",
        "50,000 included, 12,345 charged",
        "62,345 messages $0.001 $12.35",
        "Total USD $71.85",
        "Amount due USD $71.85",
        "Page 1 of 1",
    ):
        assert expected in text, expected


def test_pdf_is_named_for_the_invoice_number(acme: BillingReader) -> None:
    invoice = acme.newest_invoice()
    response = acme.request(f"/billing/invoices/{invoice['id']}/pdf")
    assert response.headers["Content-Type"] == "application/pdf"
    assert response.headers["Content-Disposition"] == f'attachment; filename="{invoice["number"]}.pdf"'
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.data.startswith(b"%PDF-")


def test_openapi_names_the_media_types_of_downloads(client: FlaskClient) -> None:
    paths = client.get("/api/v1/openapi.json").json["paths"]
    line = "/api/v1/billing/invoices/{invoice_id}/lines/{line_id}"
    for path, kinds in {
        "/api/v1/billing/invoices/{invoice_id}/pdf": {"application/pdf"},
        f"{line}/events.csv": {"text/csv"},
        f"{line}/explain": {"application/json"},
        "/api/v1/usage": {"application/json", "text/csv"},
    }.items():
        assert set(paths[path]["get"]["responses"]["200"]["content"]) == kinds


def test_same_invoice_gives_the_same_bytes(acme: BillingReader) -> None:
    assert download(acme) == download(acme)


def test_pdf_subtracts_credit_notes_and_payments(acme: BillingReader) -> None:
    invoice_id = ids.parse_id("inv", acme.newest_invoice()["id"])
    with acme.app_context() as account:
        books.create_credit_note(account, invoice_id, amount_minor=1235)
        books.settle_payment(account, invoice_id, 1000)
    text = text_of(download(acme))
    assert "Credit notes -$12.35" in text
    assert "Paid -$10.00" in text
    assert "Amount due USD $49.50" in text
    assert "Credit note CN-" in text


def test_pdf_shows_the_tiers_of_a_line(client: FlaskClient) -> None:
    reader = sign_up_for_billing(client, "scale@1")
    with reader.app_context() as account:
        account.use(1_250_000, at=day(10))
    reader.close()
    text = text_of(download(reader))
    for expected in ("in tiers", "100,000 \u00d7 $0.004 = $400.00", "900,000 \u00d7 $0.003 = $2,700.00", "$3,600.00"):
        assert expected in text, expected


def test_payable_invoice_links_to_its_page_and_says_where_to_ask(acme: BillingReader) -> None:
    document = stored(acme)
    assert document.pay_url.endswith(f"/dashboard/billing/invoices/{acme.newest_invoice()['id']}")
    assert document.pay_url in text_of(download(acme))
    assert document.pay_url.encode() in download(acme)
    assert b"/URI" not in invoice_documents.render_pdf(replace(document, pay_url=""))


@pytest.mark.parametrize("name", ["logo.svg", "logo.png"])
def test_pdf_has_logo_color_and_contact_of_the_brand(
    app: Flask, acme: BillingReader, tmp_path: Path, name: str
) -> None:
    logo = tmp_path / name
    logo.write_bytes(LOGOS[name])
    with app.app_context():
        own = replace(brand.current_brand(), logo=logo, color="#b91c1c", support_email="help@acme.example")
    with mock.patch.object(brand, "current_brand", return_value=own):
        document = stored(acme)
    branded = invoice_documents.render_pdf(document)
    assert branded == invoice_documents.render_pdf(document)
    assert "Questions about this invoice? Contact support at help@acme.example." in text_of(branded)
    assert "Questions" not in text_of(invoice_documents.render_pdf(BARE))
    for part in ({"logo": b""}, {"color": ""}):
        assert invoice_documents.render_pdf(replace(document, brand=replace(document.brand, **part))) != branded


def test_part_of_a_month_is_shown_in_months_and_days() -> None:
    day_ = timedelta(days=1)
    for used, expected in (
        (11 * day_, "11 of 30 days"),
        (11 * day_ + timedelta(hours=17, minutes=21, microseconds=3), "11 days 17 hours of 30 days"),
        (day_, "1 of 30 days"),
        (timedelta(minutes=3), "less than an hour of 30 days"),
    ):
        assert explanation.format_share(used, 30 * day_) == expected
    proration = explanation.ExplainedProration(2900, 11 * day_ + timedelta(hours=17), 30 * day_, Decimal(0))
    assert proration.months == Decimal("0.390")


def test_print_page_has_the_texts_of_the_pdf(acme: BillingReader) -> None:
    document = stored(acme)
    text = text_of(invoice_documents.render_pdf(document))
    assert [line.description for line in document.lines if line.description not in text] == []
    assert [row.amount for row in document.sums if row.amount not in text] == []


def test_markup_in_a_name_is_escaped(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"\x89PNG not an image")
    for name in (
        f'<img src="{secret}"/>',
        '<img src="http://127.0.0.1:9/x.png" width="1" height="1"/>',
        "<para><b>unclosed",
        "&lt;b&gt; & Sons",
        '<a href="http://x.example">Acme</a>',
        "</font></para>",
    ):
        content = pdf_with_buyer(name, name)
        assert name in "".join(glyph.text for glyph in pdf.read_glyphs(content))
        assert not [image for page in PdfReader(io.BytesIO(content)).pages for image in page.images]
        assert b"/URI" not in content


@pytest.mark.parametrize("script", NAMES)
def test_names_of_every_script_are_drawn_in_embedded_fonts(script: str) -> None:
    """B14: PDFs printed `????` for Arabic, Hebrew, Thai, Devanagari, Bengali and Ethiopic, and named CJK fonts only."""
    name = NAMES[script]
    content = pdf_with_buyer(name, f"Acme {name} 12")
    glyphs = pdf.read_glyphs(content)
    assert [glyph for glyph in glyphs if glyph.code == 0] == []
    assert all(pdf.is_embedded_subset(font) for font in pdf.read_fonts(content).values())
    assert set(name) <= set("".join(glyph.text for glyph in glyphs))
    assert len(content) < 60_000


def foreign_glyphs(name: str) -> list[DrawnGlyph]:
    """Glyphs of a buyer's name outside the font of the other texts."""
    glyphs = pdf.read_glyphs(pdf_with_buyer(name))
    return [glyph for glyph in glyphs if not glyph.font.startswith("NotoSans-")]


def test_letters_join_and_form_conjuncts() -> None:
    """B14: the forms of a script depend on the letters beside them."""
    apart, joined = {glyph.code for glyph in foreign_glyphs("ب ب ب")}, foreign_glyphs("ببب")
    assert len({glyph.code for glyph in joined}) == len(apart) + 2  # the dot, and first, middle and last form
    assert [glyph.text for glyph in foreign_glyphs("क्ष")] == ["क्ष"]
    assert [glyph.text for glyph in foreign_glyphs("ক্ষ")] == ["ক্ষ"]


def test_joiners_keep_their_effect() -> None:
    """B14: Persian needs the zero-width non-joiner, which the PDF left out as invisible."""
    assert len({glyph.code for glyph in foreign_glyphs("بب")}) == 3
    assert len({glyph.code for glyph in foreign_glyphs("ب\u200cب")}) == 2


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("אבג 12", "12 גבא"),
        ("Acme אבג 12", "Acme 12 גבא"),
        ("12 אבג", "גבא 12"),
    ],
)
def test_the_first_letter_decides_the_direction_of_a_row(name: str, drawn: str) -> None:
    """B14: right to left, read from the paper's left."""
    assert drawn in "".join(glyph.text for glyph in pdf.read_glyphs(pdf_with_buyer(name)))


def test_character_without_a_font_keeps_the_text_around_it() -> None:
    glyphs = pdf.read_glyphs(pdf_with_buyer("Acme \u0f00 1"))
    assert [glyph.code for glyph in glyphs].count(0) == 1
    assert "Acme \uffff 1" in "".join(glyph.text for glyph in glyphs)


def test_invisible_characters_are_left_out() -> None:
    assert "Acme Ltd" in text_of(pdf_with_buyer("Ac\u200bme\u202e\x00 Ltd\n"))


def test_long_names_wrap_within_the_page() -> None:
    name, row = "W" * 200, "ب" * 300
    glyphs = pdf.read_glyphs(pdf_with_buyer(name, "x" * 300, row))
    drawn = "".join(glyph.text for glyph in glyphs)
    assert name in drawn
    assert "x" * 300 in drawn
    assert {glyph.x < PAGE_WIDTH / 2 for glyph in glyphs if glyph.text in {"W", "x", "ب"}} == {True}
    content = invoice_documents.render_pdf(replace(BARE, seller=DocumentParty("S" * 200), number="N" * 60))
    assert len(pages(content)) == 1


def test_a_thousand_lines_span_pages_with_repeated_header() -> None:
    started = time.process_time()
    content = invoice_documents.render_pdf(many(1_000))
    assert time.process_time() - started < 10  # a fraction of that on a quiet machine
    read = pages(content)
    assert len(read) > 20
    assert f"Page {len(read)} of {len(read)}" in read[-1]
    assert all("Description" in page for page in read[:-1])
    assert sum(page.count("Line number") for page in read) == 1_000


def test_documents_drawn_concurrently_are_intact() -> None:
    documents = [replace(BARE, number=f"INV-{n}", buyer=DocumentParty(f"{n} ÅéΩЖ " * n)) for n in range(1, 9)]
    alone = [invoice_documents.render_pdf(document) for document in documents]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(invoice_documents.render_pdf, documents * 10))
    assert together == alone * 10


def test_invoice_without_lines_says_so() -> None:
    assert "Nothing was charged" in text_of(invoice_documents.render_pdf(replace(BARE, lines=())))


def test_void_invoice_has_a_watermark(acme: BillingReader) -> None:
    document = stored(acme)
    assert "Void" not in text_of(invoice_documents.render_pdf(document))
    assert "Void" in text_of(invoice_documents.render_pdf(replace(document, watermark="Void")))


def test_titles_are_plain_text() -> None:
    reader = PdfReader(io.BytesIO(invoice_documents.render_pdf(replace(BARE, seller=DocumentParty("<b>Sell & Co")))))
    assert reader.metadata is not None
    assert (reader.metadata.title, reader.metadata.author) == ("Invoice INV-000001", "<b>Sell & Co")
    assert reader.root_object["/Lang"] == "en"  # type: ignore[index]  # a document has it
