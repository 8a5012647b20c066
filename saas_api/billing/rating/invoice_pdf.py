"""An invoice as an A4 PDF: texts made ready here, drawn by `invoice.typ`.

Imported on first use, because no other module needs the typesetter and its fonts.
"""

import re
import unicodedata
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
import typst

from saas_api.billing.rating.invoice_layout import InvoiceDocument

_FONT_PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")
_INVISIBLE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn"}
# Persian, Indic scripts and Sinhala are misspelt without the joiners; the marks order mixed directions.
_KEPT_CHARACTERS = {"\u200c", "\u200d", "\u200e", "\u200f"}
_RIGHT_TO_LEFT = {"R", "AL"}
# Han characters have one code for several languages, whose forms differ.
_LANGUAGE_PATTERNS = ((re.compile("[\u3041-\u30ff]"), "ja"), (re.compile("[\u1100-\u11ff\uac00-\ud7a3]"), "ko"))
_HAN_LANGUAGE = "zh"
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")

_LAYOUT = Path(__file__).with_name("invoice.typ")
_FONTS = typst.Fonts(
    include_system_fonts=False,
    include_embedded_fonts=False,
    font_paths=[str(files(package)) for package in _FONT_PACKAGES],
)


def draw_pdf(document: InvoiceDocument) -> bytes:
    """Draw a document; the same document gives the same bytes."""
    brand, texts = document.brand, asdict(document)
    del texts["brand"]
    look = {"color": brand.color, "logo": list(brand.logo), "logo_format": brand.logo_format}
    inputs = {
        "document": orjson.dumps(_prepare({**texts, "contact": brand.contact})).decode(),
        "brand": orjson.dumps(look).decode(),
    }
    return typst.compile(_LAYOUT, font_paths=_FONTS, ignore_system_fonts=True, format="pdf", sys_inputs=inputs)


def _prepare(value: Any) -> Any:
    """Replace each text by what the layout needs of it."""
    if isinstance(value, str):
        return _prepare_text(value)
    if isinstance(value, dict):
        return {name: _prepare(item) for name, item in value.items()}
    return [_prepare(item) for item in value] if isinstance(value, list | tuple) else value


def _prepare_text(text: str) -> dict[str, str]:
    words = " ".join(unicodedata.normalize("NFC", text).split())
    visible = "".join(
        character
        for character in words
        if character in _KEPT_CHARACTERS or unicodedata.category(character) not in _INVISIBLE_CATEGORIES
    )
    return {"value": visible, "direction": _direction(visible), "language": _language(visible)}


def _direction(text: str) -> str:
    """The direction of the first letter, as browsers choose it for `dir="auto"`."""
    classes = (unicodedata.bidirectional(character) for character in text)
    first = next((name for name in classes if name == "L" or name in _RIGHT_TO_LEFT), "L")
    return "rtl" if first in _RIGHT_TO_LEFT else "ltr"


def _language(text: str) -> str:
    named = next((language for pattern, language in _LANGUAGE_PATTERNS if pattern.search(text)), "")
    return named or (_HAN_LANGUAGE if _HAN.search(text) else "en")
