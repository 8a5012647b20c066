"""Checks of a service's OpenAPI document before customers' browsers read it. Pure."""

import json
import re
from collections.abc import Iterator
from typing import Any

MAX_BYTES, MAX_DEPTH, MAX_OPERATIONS, MAX_PROBLEMS = 1_000_000, 64, 1_000, 10
METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_VERSION = re.compile(r"3\.[01]\.\d+", re.ASCII)
_SCHEME = re.compile(r"[\s\x00-\x1f]*([a-z][a-z0-9+.-]*):", re.ASCII | re.IGNORECASE)
_ADDRESSES = frozenset(
    {"authorizationUrl", "externalValue", "openIdConnectUrl", "operationRef"}
    | {"refreshUrl", "termsOfService", "tokenUrl", "url"}
)
"""Fields that a reader may follow as a link."""


def find_problems(document: Any) -> list[tuple[str, str]]:
    """What keeps a document from being shown, as pairs of JSON pointer and reason; the pointer of the whole is "".

    document: of JSON values
    """
    try:
        text = json.dumps(document, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except (ValueError, RecursionError):  # also of a lone surrogate
        return [("", "It is not JSON.")]
    if "\\u0000" in text:
        return [("", "It has the character NUL.")]
    if size > MAX_BYTES:
        return [("", f"It has more than {MAX_BYTES:,} bytes.")]
    problems = _problems_of_form(document)
    return problems or [
        problem for _, problem in zip(range(MAX_PROBLEMS), _problems_of_content(document), strict=False)
    ]


def _problems_of_form(document: Any) -> list[tuple[str, str]]:
    if not isinstance(document, dict) or not _VERSION.fullmatch(str(document.get("openapi", ""))):
        return [("/openapi", "It is not OpenAPI 3.0 or 3.1.")]
    problems = [
        (f"/{name}", "It must be an object.") for name in ("info", "paths") if not isinstance(document.get(name), dict)
    ]
    if problems:
        return problems
    operations = sum(len(METHODS & item.keys()) if isinstance(item, dict) else 0 for item in document["paths"].values())
    if operations > MAX_OPERATIONS:
        return [("/paths", f"It has more than {MAX_OPERATIONS:,} operations.")]
    return []


def _problems_of_content(document: Any) -> Iterator[tuple[str, str]]:
    pending: list[tuple[str, int, Any]] = [("", 1, document)]
    while pending:
        pointer, depth, value = pending.pop()
        if depth > MAX_DEPTH:
            yield pointer, f"It is nested more than {MAX_DEPTH} levels deep."
            continue
        if isinstance(value, list):
            pending += [(f"{pointer}/{index}", depth + 1, item) for index, item in enumerate(value)]
        elif isinstance(value, dict):
            for name, item in value.items():
                path = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
                if isinstance(item, str):
                    yield from _problems_of_text(path, name, item)
                else:
                    pending.append((path, depth + 1, item))


def _problems_of_text(pointer: str, name: str, text: str) -> Iterator[tuple[str, str]]:
    if name in ("$ref", "$dynamicRef") and not text.startswith("#"):
        yield pointer, "A reference must point into the document itself: begin it with #."
    if name in _ADDRESSES and (scheme := _SCHEME.match(text)) and scheme[1].lower() not in ("http", "https", "mailto"):
        yield pointer, "An address begins with https:, http: or /."
