"""JSON requests and responses of the API, public ids in URLs, path templates, and errors of constraints."""

import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import marshmallow as ma
import orjson
from flask import Flask, Request, Response
from sqlalchemy.exc import IntegrityError
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.routing import BaseConverter, Map

from saas_api.core import ids
from saas_api.core.db import engine
from saas_api.core.errors import (
    ApiError,
    BadRequest,
    EncodedBody,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
from saas_api.core.ids import NIL_UUID

SAFE_METHODS = ("GET", "HEAD")
MAX_BODY_BYTES = 65_536
MAX_LONG_TEXT_BYTES = 10 * MAX_BODY_BYTES
"""Of a body with a long text, which has a limit in characters; JSON and forms write a character in up to 12 bytes."""
MAX_DEPTH = 32
_PATH_PARAMETER = re.compile(r"<(?:[^<>:]*:)?([a-z_]+)>")


class PrefixedIdConverter(BaseConverter):
    """`<id("msg"):message_id>` in a route gives a UUID; a malformed id gives the nil UUID, which no row has.

    An unauthenticated caller therefore gets 401 rather than 404, and the call of an authenticated one is counted.
    """

    def __init__(self, url_map: Map, prefix: str) -> None:
        super().__init__(url_map)
        self.prefix = prefix

    def to_python(self, value: str) -> uuid.UUID:
        try:
            return ids.parse_id(self.prefix, value)
        except ValueError:
            return NIL_UUID

    def to_url(self, value: uuid.UUID) -> str:
        return ids.format_id(self.prefix, value)


def json_response(payload: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A response whose body is a value as JSON."""
    return make_json_response(orjson.dumps(payload, option=orjson.OPT_UTC_Z), status, headers)


def make_json_response(body: bytes, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A response whose body is JSON already."""
    response = Response(body, status, content_type="application/json")
    if headers:
        response.headers.extend(headers)
    return response


def append_headers(response: Response, headers: Iterable[tuple[str, str]]) -> None:
    """Append headers that the response does not have yet, all at once.

    headers: of this application, whose values have no line breaks: `Headers.extend` would check each of them again
    """
    response.headers._list.extend(headers)  # noqa: SLF001 - there is no public way without the checks


def require_plain_body(incoming: Request) -> None:
    """Reject a body in an encoding such as gzip.

    raises: EncodedBody
    """
    if incoming.environ.get("HTTP_CONTENT_ENCODING", "").strip().lower() not in ("", "identity"):
        raise EncodedBody


def read_json(incoming: Request, *, has_long_text: bool = False) -> Any:
    """The JSON object in the body of a request, {} when there is no body or an empty one.

    has_long_text: the limit of size is in characters of its texts instead of bytes
    raises: UnsupportedMediaType, EncodedBody, PayloadTooLarge over 64 KiB, BadRequest for other JSON or more than 32
        levels
    """
    environ = incoming.environ
    if not incoming.content_length and "HTTP_TRANSFER_ENCODING" not in environ:
        return {}
    if environ.get("CONTENT_TYPE") != "application/json" and incoming.mimetype != "application/json":
        raise UnsupportedMediaType
    raw = read_body(incoming, MAX_LONG_TEXT_BYTES if has_long_text else MAX_BODY_BYTES)
    if not raw:
        return {}
    value = _parse_json(raw)
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    if _nesting_depth(value) > MAX_DEPTH:
        raise BadRequest("The body is nested too deeply.")
    text_length = sum(len(text) for text in value.values() if isinstance(text, str))
    if text_length > MAX_BODY_BYTES:  # in characters; without a long text the bytes were counted before
        raise PayloadTooLarge
    return value


def read_body(incoming: Request, max_bytes: int) -> bytes:
    """The body of a request as it was sent.

    raises: EncodedBody, PayloadTooLarge
    """
    require_plain_body(incoming)
    incoming.max_content_length = max_bytes + 1  # a chunked body over the limit is cut silently: one byte more shows it
    try:
        raw = incoming.get_data()
    except RequestEntityTooLarge as cause:
        raise PayloadTooLarge from cause
    if len(raw) > max_bytes:
        raise PayloadTooLarge
    return raw


def _parse_json(raw: bytes) -> Any:
    """The JSON value in a body; orjson itself allows 1,024 levels.

    raises: BadRequest for other text
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as cause:
        raise BadRequest("The body is not valid JSON.") from cause


def _nesting_depth(value: Any) -> int:
    deepest, stack = 0, [(value, 1)]
    while stack:
        item, level = stack.pop()
        deepest = max(deepest, level)
        if level <= MAX_DEPTH and isinstance(item, dict | list):
            stack.extend((child, level + 1) for child in (item.values() if isinstance(item, dict) else item))
    return deepest


def load_schema(schema: ma.Schema, values: Any) -> dict[str, Any]:
    """Validate values against a schema.

    raises: ValidationFailed with every problem at once
    """
    try:
        data: dict[str, Any] = schema.load(values)
    except ma.ValidationError as error:
        messages = error.messages if isinstance(error.messages, dict) else {"body": error.messages}
        raise ValidationFailed.from_fields(_field_problems(messages)) from error
    return data


def _field_problems(messages: Mapping[Any, Any], parent: str = "") -> list[tuple[str, str]]:
    problems: list[tuple[str, str]] = []
    for name, reasons in messages.items():
        path = f"{parent}.{name}" if parent else str(name)
        if isinstance(reasons, Mapping):
            problems += _field_problems(reasons, path)
        else:
            problems += [(path, str(reason)) for reason in reasons]
    return problems


def find_constraint_error(error: IntegrityError) -> ApiError | None:
    """The API's error for the constraint that a statement violated; None when no error declares it."""
    error_type = ApiError.by_constraint.get(engine.violated_constraint(error) or "")
    return error_type() if error_type else None


def openapi_path(rule: str) -> str:
    """A route as a path template of OpenAPI: `/messages/{message_id}`."""
    return _PATH_PARAMETER.sub(r"{\1}", rule)


def path_parameters(rule: str) -> list[str]:
    """Names of a route's parameters, in their order."""
    return _PATH_PARAMETER.findall(rule)


def init_app(app: Flask) -> None:
    """Register the URL converter `id`."""
    app.url_map.converters["id"] = PrefixedIdConverter
