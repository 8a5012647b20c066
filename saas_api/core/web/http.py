"""The id URL converter, JSON body limits, schema loading, JSON responses, path templates."""

import re
import uuid
from collections.abc import Mapping
from typing import Any

import marshmallow as ma
import orjson
from flask import Flask, Request, Response
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.routing import BaseConverter, Map

from saas_api.core import ids
from saas_api.core.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType, ValidationFailed
from saas_api.core.ids import NIL_UUID


class PrefixedIdConverter(BaseConverter):
    """`<id("msg"):message_id>` in a route gives a UUID; what is no id names nothing, like an id nobody has.

    So a caller without credentials learns nothing from it, and the call is counted.
    """

    def __init__(self, url_map: Map, prefix: str) -> None:
        super().__init__(url_map)
        self.prefix = prefix

    def to_python(self, value: str) -> uuid.UUID:
        """Read the id."""
        try:
            return ids.parse_id(self.prefix, value)
        except ValueError:
            return NIL_UUID

    def to_url(self, value: uuid.UUID) -> str:
        """Write the id with its prefix."""
        return ids.format_id(self.prefix, value)


BODY_LIMIT_BYTES = 65_536
DEPTH_LIMIT = 32


def json_response(payload: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return make_json_response(orjson.dumps(payload, option=orjson.OPT_UTC_Z), status, headers)


def make_json_response(body: bytes, status: int, headers: Mapping[str, str] | None = None) -> Response:
    response = Response(body, status, mimetype="application/json")
    response.headers.extend(headers or {})
    return response


def read_json(incoming: Request) -> Any:
    """The JSON body, within its limits of size and depth."""
    if not incoming.mimetype and not incoming.content_length and "Transfer-Encoding" not in incoming.headers:
        return {}
    if incoming.mimetype != "application/json":
        raise UnsupportedMediaType
    incoming.max_content_length = (
        BODY_LIMIT_BYTES + 1
    )  # a chunked body over the limit is cut silently: leave room to see it
    try:
        raw = incoming.get_data()
    except RequestEntityTooLarge as cause:
        raise PayloadTooLarge from cause
    if len(raw) > BODY_LIMIT_BYTES:
        raise PayloadTooLarge
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as cause:
        raise BadRequest("The body is not valid JSON.") from cause
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    if _nesting_depth(value) > DEPTH_LIMIT:
        raise BadRequest("The body is nested too deeply.")
    return value


def _nesting_depth(value: Any) -> int:
    deepest, stack = 0, [(value, 1)]
    while stack:
        item, level = stack.pop()
        deepest = max(deepest, level)
        if level <= DEPTH_LIMIT and isinstance(item, dict | list):
            stack.extend((child, level + 1) for child in (item.values() if isinstance(item, dict) else item))
    return deepest


def load_schema(schema: ma.Schema, values: Any) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema.load(values)
    except ma.ValidationError as error:
        messages = error.messages if isinstance(error.messages, dict) else {"body": error.messages}
        raise ValidationFailed.from_fields(_problems(messages)) from error
    return loaded


def _problems(messages: Mapping[Any, Any], path: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, reasons in messages.items():
        here = f"{path}.{name}" if path else str(name)
        if isinstance(reasons, Mapping):
            found += _problems(reasons, here)
        else:
            found += [(here, str(reason)) for reason in reasons]
    return found


_PART = re.compile(r"<(?:[^<>:]*:)?([a-z_]+)>")


def openapi_path(rule: str) -> str:
    """A route as people read it: `/messages/{message_id}`."""
    return _PART.sub(r"{\1}", rule)


def path_parameters(rule: str) -> list[str]:
    """Names of a route's parameters, in their order."""
    return _PART.findall(rule)


def init_app(app: Flask) -> None:
    """Teach an application the path converter."""
    app.url_map.converters["id"] = PrefixedIdConverter
