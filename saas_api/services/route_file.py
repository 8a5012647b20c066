"""Routes of forward authentication: strict reading of their file, and matching of requests as they were sent. Pure."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import unquote_to_bytes

from saas_api.core import money
from saas_api.core.document_reader import DocumentReader
from saas_api.core.errors import NotFound
from saas_api.services.scopes import SCOPE_PATTERN

MAX_ROUTES, MAX_PATTERN_LENGTH, MAX_PATH_LENGTH = 500, 500, 8_000
MAX_QUANTITY = Decimal(10**12)
ANY_METHOD = "*"
_METHOD = re.compile(r"[A-Z][A-Z-]{0,29}")
_METER = re.compile(r"[a-z][a-z0-9_.]{0,62}")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,99}")
_PLACEHOLDER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")
_REST = re.compile(r"\*|\{[A-Za-z_][A-Za-z0-9_]*\*\}")
_SEGMENT = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})+")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
# Slash, backslash, semicolon and control characters; and a second escape within an escape.
_UNSAFE_ESCAPE = re.compile(r"%(?:2F|5C|3B|[01][0-9A-F]|7F|25(?=[0-9A-Fa-f]{2}))")


class UnsafePath(NotFound):
    """Programs disagree about what this path means, so no route can be found for it."""

    code = "UNSAFE_PATH"
    message = "This path cannot be matched safely; send it without dot segments, double or encoded slashes."


@dataclass(frozen=True)
class Route:
    """A route of a service.

    method: "*" for all
    pattern: path, in which {name} stands for one segment, and {name*} or * at its end for the rest
    permission: scope that the API key needs; None for any key
    meter: code of what a call counts; None for nothing
    quantity: in the meter's unit, above 0
    quantity_header: of the request, instead of `quantity`; a call counts 1 without both
    """

    method: str
    pattern: str
    permission: str | None = None
    meter: str | None = None
    quantity: Decimal | None = None
    quantity_header: str | None = None


@dataclass(frozen=True)
class RouteTable:
    """The routes of a service; the first that matches counts.

    is_open: a request that no route matches is admitted
    """

    routes: Sequence[Route] = ()
    is_open: bool = False


def match(routes: Sequence[Route], method: str, path: str) -> Route | None:
    """The first route that matches a request; None without one.

    Frameworks differ in what they take for the same path, and a request must not get past a route by a spelling that
    its program takes for the route's. So letters are compared without case, one slash at the end counts for nothing,
    a route for GET matches HEAD, and escapes of letters, digits, "-", ".", "_" and "~" count as what they stand for.
    Where programs disagree about the segments themselves there is no match even where unmatched requests are admitted.

    path: as it was sent, with its query or without
    raises: UnsafePath for an encoded slash, backslash, semicolon or control character, a dot segment or empty segment
        in any spelling, an escape of an escape, bytes that are not UTF-8, and what does not belong in a path
    """
    segments = split_path(path)
    methods = {ANY_METHOD, method.upper(), "GET" if method.upper() == "HEAD" else ""}
    return next((route for route in routes if route.method in methods and _matches(route.pattern, segments)), None)


def split_path(path: str) -> list[str]:
    """The segments of a path, comparable; empty for "/".

    raises: UnsafePath
    """
    raw = path.partition("?")[0]
    if not raw.startswith("/") or len(raw) > MAX_PATH_LENGTH:
        raise UnsafePath
    if raw == "/":
        return []
    segments = raw.removesuffix("/").split("/")[1:]
    return [_comparable(segment) for segment in segments]


def _comparable(segment: str) -> str:
    if not _SEGMENT.fullmatch(segment):
        raise UnsafePath
    try:
        unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise UnsafePath from None
    decoded = _ESCAPE.sub(_decode_unreserved, segment)
    if decoded in (".", "..") or _UNSAFE_ESCAPE.search(decoded):
        raise UnsafePath
    return decoded.lower()


def _decode_unreserved(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if _UNRESERVED.fullmatch(character) else f"%{escape[1].upper()}"


def _matches(pattern: str, segments: Sequence[str]) -> bool:
    literals, has_rest = _parse_pattern(pattern)
    if has_rest:
        segments = segments[: len(literals)]
    return len(literals) == len(segments) and all(
        literal in (None, segment) for literal, segment in zip(literals, segments, strict=True)
    )


@functools.lru_cache(maxsize=4096)
def _parse_pattern(pattern: str) -> tuple[Sequence[str | None], bool]:
    """The segments of a pattern, None for a placeholder, and whether it takes any rest, also an empty one.

    raises: UnsafePath for a literal segment that no request can have
    """
    parts = pattern.removesuffix("/").split("/")[1:]
    has_rest = bool(parts) and _REST.fullmatch(parts[-1]) is not None
    parts = parts[:-1] if has_rest else parts
    return [None if _PLACEHOLDER.fullmatch(part) else _comparable(part) for part in parts], has_rest


def load_routes(document: Any) -> RouteTable:
    """Read routes from their document: `{"default": "deny", "routes": [...]}`, or the list of routes alone.

    raises: InvalidDocument with every problem
    """
    reader = DocumentReader()
    values = {"routes": document} if isinstance(document, list) else document
    values = reader.object("", values, ("routes",), ("default",))
    default = reader.choice("default", values.get("default", "deny"), ("deny", "allow"))
    entries = values.get("routes", [])
    if not isinstance(entries, list) or len(entries) > MAX_ROUTES:
        reader.report("routes", f"must be a list of at most {MAX_ROUTES} routes")
        entries = []
    routes = [_read_route(reader, f"routes.{index}", entry) for index, entry in enumerate(entries)]
    reader.finish()
    return RouteTable(tuple(routes), default == "allow")


def to_document(table: RouteTable) -> dict[str, Any]:
    """The document of routes; `load_routes` of it gives the same table."""
    default = "allow" if table.is_open else "deny"
    return {"default": default, "routes": [_write_route(route) for route in table.routes]}


def _write_route(route: Route) -> dict[str, Any]:
    values = {
        "method": route.method,
        "path": route.pattern,
        "permission": route.permission,
        "meter": route.meter,
        "quantity": None if route.quantity is None else money.format_unit_price(route.quantity),
        "quantity_header": route.quantity_header,
    }
    return {name: value for name, value in values.items() if value is not None}


def _read_route(reader: DocumentReader, path: str, entry: Any) -> Route:
    optional = ("permission", "meter", "quantity", "quantity_header")
    values = reader.object(path, entry, ("method", "path"), optional)
    meter, header = values.get("meter"), values.get("quantity_header")
    quantity = _read_quantity(reader, f"{path}.quantity", values.get("quantity"))
    if meter is None and (quantity is not None or header is not None):
        reader.report(f"{path}.meter", "is missing: without one there is nothing to count")
    if quantity is not None and header is not None:
        reader.report(f"{path}.quantity_header", "excludes quantity")
    method = values.get("method", ANY_METHOD)
    if method != ANY_METHOD:
        method = reader.code(f"{path}.method", method, _METHOD, "* or a method in capitals, like POST")
    return Route(
        method,
        _read_pattern(reader, f"{path}.path", values.get("path", "/")),
        _read_optional(reader, f"{path}.permission", values.get("permission"), SCOPE_PATTERN, "like lookups:write"),
        _read_optional(reader, f"{path}.meter", meter, _METER, "of a meter, like lookups"),
        quantity,
        _read_optional(reader, f"{path}.quantity_header", header, _HEADER, "the name of a header, like X-Quantity"),
    )


def _read_quantity(reader: DocumentReader, path: str, value: Any) -> Decimal | None:
    if value is None:
        return None
    quantity = reader.quantity(path, value, is_positive=True)
    if quantity > MAX_QUANTITY:
        reader.report(path, f"must be at most {MAX_QUANTITY:f}")
    return quantity


def _read_optional(reader: DocumentReader, path: str, value: Any, pattern: re.Pattern[str], rule: str) -> str | None:
    return None if value is None else reader.code(path, value, pattern, rule)


def _read_pattern(reader: DocumentReader, path: str, value: Any) -> str:
    """A pattern whose segments are literal, {name}, or {name*} or * at the end."""
    if not isinstance(value, str) or not value.startswith("/") or len(value) > MAX_PATTERN_LENGTH:
        reader.report(path, f"must begin with / and have at most {MAX_PATTERN_LENGTH} characters")
        return "/"
    try:
        literals, _ = _parse_pattern(value)
    except UnsafePath:
        reader.report(path, "must have segments that a request can have; {name} stands for a whole one")
        return "/"
    if any("*" in literal for literal in literals if literal):
        reader.report(path, "may have * at its end only, as a whole segment or as {name*}")
    return value
