"""An invoice as an A4 PDF. Imported on first use, because no other module needs the PDF library."""

import io
import threading
import unicodedata
from collections.abc import Sequence
from importlib.resources import files
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib.colors import Color, HexColor
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import BaseDocTemplate, Flowable, Frame, KeepTogether, PageTemplate, Paragraph, Spacer, Table

from saas_api.billing.rating.invoice_layout import DocumentLine, DocumentParty, InvoiceDocument

_MUTED_HEX = "#5b6775"
_TEXT_COLOR, _MUTED_COLOR, _LINE_COLOR, _FILL_COLOR = (
    HexColor("#16202c"),
    HexColor(_MUTED_HEX),
    HexColor("#d5dbe2"),
    HexColor("#f3f5f8"),
)
_WATERMARK_COLOR = Color(0.09, 0.13, 0.17, alpha=0.07)
_MARGIN, _WIDTH = 18 * mm, A4[0] - 36 * mm
_LINE_WIDTHS = (_WIDTH - 96 * mm, 40 * mm, 26 * mm, 30 * mm)
_PADDING = 2.2 * mm
_INVISIBLE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn"}
# Fonts that PDF readers provide, for scripts that the embedded font lacks: first code, last code, font.
_BUNDLED_FONTS = (
    (0x1100, 0x11FF, "HYSMyeongJo-Medium"),
    (0x3040, 0x30FF, "HeiseiMin-W3"),
    (0xAC00, 0xD7A3, "HYSMyeongJo-Medium"),
    (0x3000, 0x303F, "STSong-Light"),
    (0x4E00, 0x9FFF, "STSong-Light"),
    (0xFF01, 0xFF60, "STSong-Light"),
)


def _register_fonts() -> tuple[str, str]:
    """Names of the regular and the bold font."""
    folder = files("saas_api") / "static" / "vendor"
    pdfmetrics.registerFont(TTFont("Roboto", str(folder / "Roboto-Regular.ttf")))
    pdfmetrics.registerFont(TTFont("Roboto-Bold", str(folder / "Roboto-Medium.ttf")))
    for font in sorted({font for _, _, font in _BUNDLED_FONTS}):
        pdfmetrics.registerFont(UnicodeCIDFont(font))
    return "Roboto", "Roboto-Bold"


_FONTS = _register_fonts()
_GLYPHS = frozenset(pdfmetrics.getFont(_FONTS[0]).face.charToGlyph)


def _style(
    name: str, size: float, *, is_bold: bool = False, colour: Color = _TEXT_COLOR, is_right: bool = False
) -> Any:
    return ParagraphStyle(
        name,
        fontName=_FONTS[is_bold],
        fontSize=size,
        leading=size * 1.35,
        textColor=colour,
        alignment=TA_RIGHT if is_right else 0,
        splitLongWords=True,
    )


def _font_for(character: str) -> str | None:
    """The font that has a character: "" for the embedded font, None if no font has it."""
    code = ord(character)
    if code in _GLYPHS:
        return ""
    return next((font for first, last, font in _BUNDLED_FONTS if first <= code <= last), None)


def _escape(text: str) -> str:
    """Markup of the PDF library: escaped, each character in a font that has it, `?` where none has."""
    runs: list[tuple[str, list[str]]] = []
    for character in " ".join(unicodedata.normalize("NFC", text).split()):
        if unicodedata.category(character) in _INVISIBLE_CATEGORIES:
            continue
        font = _font_for(character)
        if not runs or runs[-1][0] != (font or ""):
            runs.append((font or "", []))
        runs[-1][1].append("?" if font is None else character)
    escaped = ((font, escape("".join(characters))) for font, characters in runs)
    return "".join(f'<font name="{font}">{run}</font>' if font else run for font, run in escaped)


def _replace_missing_glyphs(text: str) -> str:
    return "".join("?" if ord(character) not in _GLYPHS else character for character in text)


def _paragraphs(texts: Sequence[str], style: Any) -> list[Flowable]:
    return [Paragraph(_escape(text), style) for text in texts if text.strip()]


# Documents share the fonts, and the library keeps its position in the file of a font.
_RENDER_LOCK = threading.Lock()


def draw_pdf(document: InvoiceDocument) -> bytes:
    """Draw a document; the same document gives the same bytes."""
    with _RENDER_LOCK:
        return _draw(document)


def _draw(document: InvoiceDocument) -> bytes:
    target = io.BytesIO()
    frame = Frame(_MARGIN, 20 * mm, _WIDTH, A4[1] - 38 * mm, 0, 0, 0, 0)
    name = f"{document.title} {document.number}".strip()
    template = BaseDocTemplate(
        target,
        pagesize=A4,
        title=_replace_missing_glyphs(name),
        author=_replace_missing_glyphs(document.seller.name),
        lang="en",
        invariant=1,
        initialFontName=_FONTS[0],
        pageTemplates=[PageTemplate("page", [frame], onPage=lambda canvas, _: _watermark(canvas, document.watermark))],
    )
    story = [
        *_header(document),
        Spacer(0, 8 * mm),
        *_lines(document.lines),
        Spacer(0, 4 * mm),
        KeepTogether([_sums(document), Spacer(0, 6 * mm)]),
        *_paragraphs(document.notes, _style("note", 8.5, colour=_MUTED_COLOR)),
    ]
    footer = _replace_missing_glyphs(f"{document.seller.name} · {name}")
    template.build(story, canvasmaker=lambda *args, **options: _PageCountCanvas(*args, footer=footer, **options))
    return target.getvalue()


class _PageCountCanvas(Canvas):  # type: ignore[misc]  # the library has no types
    """A canvas that draws the footers last, when the number of pages is known."""

    def __init__(self, *args: Any, footer: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._footer = footer
        self._pages: list[dict[str, Any]] = []

    def showPage(self) -> None:  # noqa: N802 - the library's name
        self._pages.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        for number, page in enumerate(self._pages, 1):
            self.__dict__.update(page)
            self.setFont(_FONTS[0], 8)
            self.setFillColor(_MUTED_COLOR)
            self.drawString(_MARGIN, 11 * mm, _truncate(self._footer))
            self.drawRightString(A4[0] - _MARGIN, 11 * mm, f"Page {number} of {len(self._pages)}")
            super().showPage()
        super().save()


def _truncate(text: str) -> str:
    while pdfmetrics.stringWidth(text, _FONTS[0], 8) > _WIDTH - 30 * mm:
        text = f"{text[:-2].rstrip()}…"
    return text


def _watermark(canvas: Canvas, text: str) -> None:
    if text:
        canvas.saveState()
        canvas.translate(A4[0] / 2, A4[1] / 2)
        canvas.rotate(45)
        canvas.setFillColor(_WATERMARK_COLOR)
        canvas.setFont(_FONTS[1], 64)
        canvas.drawCentredString(0, 0, _replace_missing_glyphs(text))
        canvas.restoreState()


def _header(document: InvoiceDocument) -> list[Flowable]:
    heading = [
        *_paragraphs([document.title], _style("title", 22, is_bold=True, is_right=True)),
        Spacer(0, 1.5 * mm),
        *_paragraphs([document.number], _style("number", 11, is_bold=True, is_right=True)),
        *_paragraphs([document.status], _style("status", 10, colour=_MUTED_COLOR, is_right=True)),
    ]
    columns, gap = (_WIDTH * 0.52, _WIDTH * 0.48), 8 * mm
    plain = [("VALIGN", (0, 0), (-1, -1), "TOP"), *_without_padding()]
    top = Table([[_party(document.seller), heading]], columns, style=plain)
    buyer = [*_paragraphs(["Bill to"], _style("label", 8.5, colour=_MUTED_COLOR)), *_party(document.buyer)]
    label, value = _style("label", 8.5, colour=_MUTED_COLOR), _style("value", 9, is_right=True)
    facts = [[Paragraph(_escape(name), label), Paragraph(_escape(fact), value)] for name, fact in document.facts]
    table = Table(facts, (columns[1] * 0.3, columns[1] * 0.7), style=plain) if facts else ""
    return [top, Spacer(0, 10 * mm), Table([[buyer, "", table]], (columns[0] - gap, gap, columns[1]), style=plain)]


def _without_padding() -> list[Any]:
    return [(f"{side}PADDING", (0, 0), (-1, -1), 0) for side in ("LEFT", "RIGHT", "TOP", "BOTTOM")]


def _party(party: DocumentParty) -> list[Flowable]:
    name = _paragraphs([party.name], _style("name", 11, is_bold=True))
    return [*name, *_paragraphs(party.rows, _style("row", 9))]


def _lines(lines: Sequence[DocumentLine]) -> list[Flowable]:
    head = _style("head", 8.5, is_bold=True, colour=_MUTED_COLOR)
    right = _style("head_right", 8.5, is_bold=True, colour=_MUTED_COLOR, is_right=True)
    names = [Paragraph("Description", head), *(Paragraph(n, right) for n in ("Quantity", "Unit price", "Amount"))]
    if not lines:
        return _paragraphs(["Nothing was charged in this period."], _style("empty", 9.5))
    text, cell = _style("text", 9.5), _style("cell", 9.5, is_right=True)
    rows: list[list[Any]] = [names]
    for line in lines:
        description = _description_cell(line, _LINE_WIDTHS[0] - 2 * _PADDING, text)
        cells = zip((line.quantity, line.unit_price, line.amount), _LINE_WIDTHS[1:], strict=True)
        rows.append([description, *(_table_cell(value, width - 2 * _PADDING, cell) for value, width in cells)])
    style = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("ALIGN", (1, 1), (-1, -1), "RIGHT"),
        ("FONT", (1, 1), (-1, -1), _FONTS[0], 9.5, 9.5 * 1.35),
        ("TEXTCOLOR", (1, 1), (-1, -1), _TEXT_COLOR),
        ("BACKGROUND", (0, 0), (-1, 0), _FILL_COLOR),
        ("LINEBELOW", (0, 0), (-1, -1), 0.5, _LINE_COLOR),
        *((f"{side}PADDING", (0, 0), (-1, -1), _PADDING) for side in ("LEFT", "RIGHT", "TOP", "BOTTOM")),
    ]
    return [Table(rows, _LINE_WIDTHS, repeatRows=1, style=style)]


class _LineTable(Flowable):  # type: ignore[misc]  # the library has no types
    """Rows of text that fit their column; much faster than paragraphs, which measure every word."""

    def __init__(self, rows: Sequence[tuple[str, Any]]) -> None:
        super().__init__()
        self._rows = rows

    def wrap(self, width: float, _: float) -> tuple[float, float]:
        return width, sum(style.leading for _, style in self._rows)

    def draw(self) -> None:
        top = sum(style.leading for _, style in self._rows)
        for text, style in self._rows:
            self.canv.setFont(style.fontName, style.fontSize)
            self.canv.setFillColor(style.textColor)
            self.canv.drawString(0, top - style.fontSize, text)
            top -= style.leading


def _description_cell(line: DocumentLine, width: float, style: Any) -> Flowable:
    detail = _style("detail", 8, colour=_MUTED_COLOR)
    rows = [(line.description, style), *((row, detail) for row in line.details)]
    if all(_replace_missing_glyphs(text) == text and _fits(text, width, font_style) for text, font_style in rows):
        return _LineTable(rows)
    details = "".join(f'<br/><font size="8" color="{_MUTED_HEX}">{_escape(row)}</font>' for row in line.details)
    return Paragraph(_escape(line.description) + details, style)


def _fits(text: str, width: float, style: Any) -> bool:
    return bool(pdfmetrics.stringWidth(text, style.fontName, style.fontSize) <= width)


def _table_cell(text: str, width: float, style: Any) -> Any:
    """The text if it fits, which draws fast; else a paragraph that wraps."""
    plain = _replace_missing_glyphs(text)
    return plain if _fits(plain, width, style) else Paragraph(_escape(text), style)


def _sums(document: InvoiceDocument) -> Flowable:
    rows, style = [], [("LINEABOVE", (0, 0), (-1, 0), 0.5, _LINE_COLOR), *_without_padding()]
    for index, row in enumerate(document.sums):
        size = 11.5 if row.is_strong else 9.5
        left = _style("sum", size, is_bold=row.is_strong)
        right = _style("sum_right", size, is_bold=row.is_strong, is_right=True)
        amount = f"{document.currency} {row.amount}" if row.is_strong else row.amount
        rows.append([Paragraph(_escape(row.label), left), Paragraph(_escape(amount), right)])
        if row.is_strong:
            style.append(("LINEABOVE", (0, index), (-1, index), 0.5, _LINE_COLOR))
    style += [(f"{side}PADDING", (0, 0), (-1, -1), 1.4 * mm) for side in ("TOP", "BOTTOM")]
    style.append(("RIGHTPADDING", (1, 0), (1, -1), _PADDING))
    return Table(rows, (46 * mm, 46 * mm), hAlign="RIGHT", style=style)
