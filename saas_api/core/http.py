"""What a view says about its requests and answers: `@endpoint`, JSON bodies, pages of lists.

The fields themselves are in core.fields and can be imported from here.
"""

import functools
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Required, TypedDict, Unpack

import marshmallow as ma
import orjson
from flask import Flask, Request, Response, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from saas_api.core import idempotency
from saas_api.core.db import session
from saas_api.core.errors import ApiError, Invalid, Malformed, TooLarge, UnsupportedMediaType
from saas_api.core.fields import (
    Amount,
    Count,
    Day,
    Email,
    Id,
    IdConverter,
    Page,
    PageQuery,
    Pagination,
    QueryInt,
    Schema,
    Text,
    Timestamp,
    decode_cursor,
    encode_cursor,
    page_of,
)

__all__ = [
    "Amount",
    "Answer",
    "Count",
    "Day",
    "Email",
    "Id",
    "Operation",
    "Page",
    "PageQuery",
    "Pagination",
    "QueryInt",
    "Schema",
    "Text",
    "Timestamp",
    "alias",
    "client_ip",
    "decode_cursor",
    "encode_cursor",
    "endpoint",
    "json_response",
    "page_of",
    "read_json",
    "replay_of",
]

BODY_LIMIT_BYTES = 65_536
DEPTH_LIMIT = 32


@dataclass(frozen=True)
class Answer:
    """What a view returns when data alone does not say it all.

    is_secret: it shows a secret that is not shown again
    """

    data: Any
    message: str | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_secret: bool = False


@dataclass(frozen=True)
class Operation:
    """Declaration of an API operation; the OpenAPI document is generated from it.

    operation_id, tag: unique name and section in the OpenAPI document; clients are generated from them
    units: usage of a body by meter, for the quotas that the gate counts; such a view stores its response under an
        Idempotency-Key itself, in the transaction of its effect, as `g.once` says
    produces: media type of a view that may return a response itself; with `returns` it may do either
    is_replayable: False where a response carries tokens: an Idempotency-Key is checked and nothing is stored
    """

    operation_id: str
    tag: str
    body: ma.Schema | None = None
    query: ma.Schema | None = None
    returns: ma.Schema | None = None
    status: int = 200
    errors: tuple[type[ApiError], ...] = ()
    units: Callable[[dict[str, Any]], Mapping[str, int]] | None = None
    produces: str = "application/json"
    is_replayable: bool = True

    @property
    def keeps_itself(self) -> bool:
        """Whether the view keeps its answer under an Idempotency-Key itself."""
        return self.units is not None

    def parse(self) -> dict[str, Any]:
        """The view's arguments from the current request.

        raises: Malformed, TooLarge, UnsupportedMediaType, Invalid with every problem at once
        """
        arguments: dict[str, Any] = {}
        if self.query:
            arguments["query"] = load(self.query, request.args.to_dict())
        if self.body:
            arguments["body"] = load(self.body, read_json(request))
        return arguments


class OperationFields(TypedDict, total=False):
    """Arguments of `@endpoint`: the fields of an `Operation`."""

    operation_id: Required[str]
    tag: Required[str]
    body: ma.Schema
    query: ma.Schema
    returns: ma.Schema
    status: int
    errors: tuple[type[ApiError], ...]
    units: Callable[[dict[str, Any]], Mapping[str, int]]
    produces: str
    is_replayable: bool


def endpoint(**fields: Unpack[OperationFields]) -> Callable[[Callable[..., Any]], Callable[..., Response]]:
    """Declare a view of the API: parse its request, call it, and write its result in the envelope.

    fields: of `Operation`
    """
    operation = Operation(**fields)

    def wrap(view: Callable[..., Any]) -> Callable[..., Response]:
        @functools.wraps(view)
        def call(**path: Any) -> Response:
            arguments = g.pop("arguments", None) or operation.parse()
            g.once = _once(operation)
            try:
                if g.once is not None and not operation.keeps_itself:
                    idempotency.hold(session(), g.once)
                response = _respond(operation, view(**path, **arguments))
            except idempotency.Replay as replay:
                return _replayed(replay.kept)
            if g.once is not None and not operation.keeps_itself and response.status_code < 400:
                _keep(g.once, response)
            return response

        call.__operation__ = operation  # type: ignore[attr-defined]  # functions carry attributes
        return call

    return wrap


def alias(view: Callable[..., Response], operation_id: str) -> Callable[..., Response]:
    """Copy a view for a second address, which needs an operation id of its own."""
    copy = functools.wraps(view)(functools.partial(view))
    operation: Operation = view.__operation__  # type: ignore[attr-defined]  # functions carry attributes
    copy.__operation__ = replace(operation, operation_id=operation_id)  # type: ignore[attr-defined]  # the same
    return copy


def _respond(operation: Operation, result: Any) -> Response:
    if isinstance(result, Response):
        return result
    answer = result if isinstance(result, Answer) else Answer(result)
    headers = {**answer.headers, "Cache-Control": "no-store"} if answer.is_secret else answer.headers
    return _response(_rendered(operation, answer), answer.status or operation.status, headers)


def _rendered(operation: Operation, answer: Answer) -> bytes:
    data = operation.returns.dump(answer.data) if operation.returns else answer.data
    envelope = {"success": True, "data": data}
    if answer.message:
        envelope["message"] = answer.message
    return orjson.dumps(envelope, option=orjson.OPT_UTC_Z)


def replay_of(operation: Operation | None) -> Response | None:
    """The answer that the current request got before, if it did; in a transaction of its own."""
    try:
        once = _once(operation) if operation else None
    except ApiError:
        return None
    kept = idempotency.recall(once) if once else None
    return _replayed(kept) if kept else None


def _once(operation: Operation) -> idempotency.Once | None:
    if request.method != "POST":
        return None
    key = idempotency.read_key(request.headers.get("Idempotency-Key"))
    principal = g.get("principal")
    if key is None or principal is None or not operation.is_replayable:
        return None
    body = read_json(request) if operation.body else {}
    print_of = idempotency.fingerprint(principal, request.method, request.path, body)

    def render(result: Any) -> bytes:
        return _rendered(operation, result if isinstance(result, Answer) else Answer(result))

    return idempotency.Once(principal.organization_id, key, print_of, operation.status, render)


def _keep(once: idempotency.Once, response: Response) -> None:
    own = {name: value for name, value in response.headers.items() if name not in ("Content-Type", "Content-Length")}
    kept = idempotency.Kept(response.status_code, response.get_data(), own)
    idempotency.keep(session(), once, kept, is_secret=own.get("Cache-Control") == "no-store")


def _replayed(kept: idempotency.Kept) -> Response:
    g.is_replayed = True
    return _response(kept.body, kept.status, {**kept.headers, "Idempotency-Replayed": "true"})


def json_response(payload: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return _response(orjson.dumps(payload, option=orjson.OPT_UTC_Z), status, headers)


def _response(body: bytes, status: int, headers: Mapping[str, str] | None = None) -> Response:
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
        raise TooLarge from cause
    if len(raw) > BODY_LIMIT_BYTES:
        raise TooLarge
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as cause:
        raise Malformed("The body is not valid JSON.") from cause
    if not isinstance(value, dict):
        raise Malformed("The body must be a JSON object.")
    if _depth(value) > DEPTH_LIMIT:
        raise Malformed("The body is nested too deeply.")
    return value


def _depth(value: Any) -> int:
    deepest, stack = 0, [(value, 1)]
    while stack:
        item, level = stack.pop()
        deepest = max(deepest, level)
        if level <= DEPTH_LIMIT and isinstance(item, dict | list):
            stack.extend((child, level + 1) for child in (item.values() if isinstance(item, dict) else item))
    return deepest


def load(schema: ma.Schema, values: Any) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema.load(values)
    except ma.ValidationError as error:
        messages = error.messages if isinstance(error.messages, dict) else {"body": error.messages}
        raise Invalid.fields(_problems(messages)) from error
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


def path_template(rule: str) -> str:
    """A route as people read it: `/messages/{message_id}`."""
    return _PART.sub(r"{\1}", rule)


def path_names(rule: str) -> list[str]:
    """Names of a route's parameters, in their order."""
    return _PART.findall(rule)


def client_ip() -> str:
    """The caller's address, IPv4 unfolded from IPv6; "invalid" for what is no address."""
    try:
        address = ipaddress.ip_address((request.remote_addr or "").partition("%")[0])
    except ValueError:
        return "invalid"
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def init_app(app: Flask) -> None:
    """Teach an application the path converter."""
    app.url_map.converters["id"] = IdConverter
