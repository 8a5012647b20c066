"""What a PDF draws: the glyphs of its fonts, in the order of the paper and not of the text."""

import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pypdf import PageObject, PdfReader


class DrawnGlyph(NamedTuple):
    """A glyph on paper.

    font: name of its font, such as NotoSansHebrew-Regular
    code: number within the font of this PDF; 0 stands for a character that the font lacks
    text: its characters, more than one for a ligature; empty for a further part of one before
    x: where its word begins, in points from the left edge
    """

    x: float
    font: str
    code: int
    text: str


def read_fonts(content: bytes) -> dict[str, dict[str, Any]]:
    """Fonts of the first page by name of the resource."""
    resources: Any = PdfReader(io.BytesIO(content)).pages[0]["/Resources"]
    return {name: font.get_object() for name, font in resources["/Font"].items()}


def is_embedded_subset(font: dict[str, Any]) -> bool:
    descriptor = font["/DescendantFonts"][0].get_object()["/FontDescriptor"].get_object()
    return (
        bool({"/FontFile2", "/FontFile3"} & set(descriptor)) and re.match(r"/[A-Z]{6}\+", font["/BaseFont"]) is not None
    )


def read_glyphs(content: bytes) -> list[DrawnGlyph]:
    """Glyphs of the first page, rows from top to bottom, each from left to right."""
    fonts = {name: (font["/BaseFont"].partition("+")[2], _texts(font)) for name, font in read_fonts(content).items()}
    glyphs = []
    for run in sorted(_runs(PdfReader(io.BytesIO(content)).pages[0]), key=lambda run: (-run.y, run.x)):
        font, texts = fonts[run.font]
        rest = [""] * (len(run.codes) - 1)
        shown = [texts.get(code, "") for code in run.codes] if run.text is None else [run.text, *rest]
        glyphs += [DrawnGlyph(run.x, font, *glyph) for glyph in zip(run.codes, shown, strict=True)]
    return glyphs


class _Run(NamedTuple):
    """What one text operation draws.

    text: of all its glyphs together, where the PDF names it; None where each glyph has its own
    """

    x: float
    y: int
    font: str
    codes: list[int]
    text: str | None


def _texts(font: dict[str, Any]) -> dict[int, str]:
    table = font["/ToUnicode"].get_data().decode()
    return {
        int(code, 16): bytes.fromhex(text).decode("utf-16-be")
        for code, text in re.findall(r"<([0-9A-F]{4})> <([0-9A-F]+)>$", table, re.MULTILINE)
    }


def _runs(page: PageObject) -> Iterator[_Run]:
    x, y, font, text = 0.0, 0, "", None
    content = page.get_contents()
    assert content is not None
    for operands, operator in content.operations:
        if operator == b"cm":
            x, y = float(operands[4]), round(float(operands[5]))
        elif operator == b"Tf":
            font = operands[0]
        elif operator == b"BDC":
            text = operands[1].get("/ActualText")
        elif operator == b"EMC":
            text = None
        elif operator in (b"Tj", b"TJ"):
            parts = operands[0] if operator == b"TJ" else operands
            yield _Run(x, y, font, [code for part in parts for code in _codes(part)], text)


def _codes(part: Any) -> list[int]:
    data = part if isinstance(part, bytes) else getattr(part, "original_bytes", b"")
    return [int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2)]
