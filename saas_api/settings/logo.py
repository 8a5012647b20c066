"""The check of the file that BRAND_LOGO names."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

MAX_LOGO_BYTES = 65_536
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ACTIVE_ELEMENTS = frozenset(("script", "foreignobject", "iframe", "embed", "object", "handler", "listener"))
_HARMLESS_LINK = re.compile(r"\s*(#|data:image/(png|jpeg|webp)[;,])")
_LOADING_STYLE = re.compile(r"@import|url\(\s*[\"']?(?!\s*#)", re.IGNORECASE)


def logo_problem(path: Path) -> str:
    """Why a file cannot be the logo, as the beginning of a sentence with a semicolon; "" for a good one."""
    try:
        content = path.read_bytes()
    except OSError:
        return "the file cannot be read; "
    if len(content) > MAX_LOGO_BYTES:
        return "the file is larger than 64 KB; "
    match path.suffix.lower():
        case ".png":
            return "" if content.startswith(_PNG_SIGNATURE) else "the file is not a PNG; "
        case ".svg":
            return _svg_problem(content)
        case _:
            return "the name must end with .svg or .png; "


def _svg_problem(content: bytes) -> str:
    if re.search(rb"<!(DOCTYPE|ENTITY)|<\?xml-stylesheet", content, re.IGNORECASE):
        return "the SVG has a document type or a style sheet of its own; "
    try:
        root = ET.fromstring(content)  # noqa: S314 - a file of the operator, at most 64 KB and without entities
    except (ET.ParseError, ValueError, LookupError):
        return "the file is not an SVG; "
    if _local_name(root.tag) != "svg":
        return "the file is not an SVG; "
    if any(map(_is_active, root.iter())):
        return "the SVG has a script, an event handler or a link to something else; "
    return ""


def _is_active(element: ET.Element) -> bool:
    name = _local_name(element.tag)
    return (
        name in _ACTIVE_ELEMENTS
        or (name == "style" and _LOADING_STYLE.search(element.text or "") is not None)
        or any(_is_active_attribute(_local_name(key), value) for key, value in element.attrib.items())
    )


def _is_active_attribute(name: str, value: str) -> bool:
    if name.startswith("on"):
        return True
    if name in ("href", "src"):
        return _HARMLESS_LINK.match(value) is None
    return _LOADING_STYLE.search(value) is not None


def _local_name(name: str) -> str:
    return name.rpartition("}")[2].lower()
