"""`@endpoint` declares a view of the API: it parses the request, writes the envelope and replays stored responses.

The declaration, an `Operation`, is what the OpenAPI document is generated from.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Required, TypedDict, Unpack

import marshmallow as ma
import orjson
from flask import Response, g, request

from saas_api.core import idempotency
from saas_api.core.db import engine
from saas_api.core.errors import ApiError
from saas_api.core.idempotency import AlreadyAnswered, IdempotentRequest, StoredResponse
from saas_api.core.web import http


@dataclass(frozen=True)
class ViewResult:
    """What a view returns when it sets more than the data of the envelope.

    is_secret: the data contains a secret that is shown only once
    """

    data: Any
    message: str | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_secret: bool = False


class Metering(Protocol):
    """Meters the calls of a view.

    is_batch: the view writes nothing itself: what it writes is recorded with the usage, and with the response under an
        Idempotency-Key
    """

    @property
    def is_batch(self) -> bool: ...

    def expected_usage(self, arguments: Mapping[str, Any]) -> Sequence[Any]:
        """What a call uses, as far as it is known before the view runs; the limits count it."""

    def record(self, arguments: Mapping[str, Any], result: Any) -> Any:
        """Record what a call has used, in the transaction of its effect; returns the result for the response."""


@dataclass(frozen=True)
class Operation:
    """Declaration of an API operation; the OpenAPI document is generated from it.

    operation_id, tag: unique name and section in the OpenAPI document; clients are generated from them
    metering: meters the calls of the view; set by `metering.metered_endpoints.metered`
    consumes: schemas by media type of a body that the view reads itself, instead of `body`
    produces: media type of a view that may return a `Response`; with `returns` it may return either
    load_common: what `body` loads from a common body, and None for others, which `body` itself loads
    dump_common: what `returns` dumps from a common result, and None for others, which `returns` itself dumps
    has_long_text: the size of the body is limited in characters of its texts instead of bytes
    reads_replica: the view is a report or an export: it reads from the replica where there is one
    is_replayable: False when the response contains tokens: an Idempotency-Key is checked and nothing is stored
    """

    operation_id: str
    tag: str
    body: ma.Schema | None = None
    query: ma.Schema | None = None
    returns: ma.Schema | None = None
    load_common: Callable[[Any], dict[str, Any] | None] | None = None
    dump_common: Callable[[Any], dict[str, Any] | None] | None = None
    status: int = 200
    errors: tuple[type[ApiError], ...] = ()
    metering: Metering | None = None
    consumes: Mapping[str, ma.Schema] = field(default_factory=dict)
    produces: str = "application/json"
    has_long_text: bool = False
    reads_replica: bool = False
    is_replayable: bool = True

    @property
    def stores_own_replay(self) -> bool:
        """Whether the response is stored under an Idempotency-Key in the batch that records the usage."""
        return self.metering is not None and self.metering.is_batch

    def parse(self) -> dict[str, Any]:
        """The view's arguments from the current request.

        raises: BadRequest, PayloadTooLarge, UnsupportedMediaType, ValidationFailed with every problem at once
        """
        arguments: dict[str, Any] = {}
        if self.query:
            arguments["query"] = http.load_schema(self.query, request.args.to_dict())
        if self.body:
            body = http.read_json(request, has_long_text=self.has_long_text)
            common = self.load_common(body) if self.load_common else None
            arguments["body"] = http.load_schema(self.body, body) if common is None else common
        return arguments


class OperationFields(TypedDict, total=False):
    """Arguments of `@endpoint`: the fields of an `Operation`."""

    operation_id: Required[str]
    tag: Required[str]
    body: ma.Schema
    query: ma.Schema
    returns: ma.Schema
    load_common: Callable[[Any], dict[str, Any] | None]
    dump_common: Callable[[Any], dict[str, Any] | None]
    status: int
    errors: tuple[type[ApiError], ...]
    consumes: Mapping[str, ma.Schema]
    produces: str
    has_long_text: bool
    reads_replica: bool
    is_replayable: bool


def endpoint(**fields: Unpack[OperationFields]) -> Callable[[Callable[..., Any]], Callable[..., Response]]:
    """Declare a view of the API: parse its request, call it, and write its result in the envelope.

    fields: those of `Operation`
    """

    def wrap(view: Callable[..., Any]) -> Callable[..., Response]:
        @functools.wraps(view)
        def call(**path: Any) -> Response:
            operation: Operation = call.__operation__  # type: ignore[attr-defined]  # functions carry attributes
            arguments = g.pop("arguments", None) or operation.parse()
            g.idempotent_request = _idempotent_request(operation)
            must_store = g.idempotent_request is not None and not operation.stores_own_replay
            try:
                if must_store:
                    idempotency.acquire(engine.session(), g.idempotent_request)
                result = view(**path, **arguments)
                if operation.metering is not None:
                    result = operation.metering.record(arguments, result)
                response = _to_response(operation, result)
            except AlreadyAnswered as replay:
                return _replay(replay.response)
            if must_store and response.status_code < 400:
                _store_response(g.idempotent_request, response)
            return response

        call.__operation__ = Operation(**fields)  # type: ignore[attr-defined]  # functions carry attributes
        return call

    return wrap


def alias(view: Callable[..., Response], operation_id: str) -> Callable[..., Response]:
    """Copy a view for a second URL, which needs an operation id of its own."""
    copy = functools.wraps(view)(functools.partial(view))
    operation: Operation = view.__operation__  # type: ignore[attr-defined]  # functions carry attributes
    copy.__operation__ = replace(operation, operation_id=operation_id)  # type: ignore[attr-defined]  # the same
    return copy


def _to_response(operation: Operation, result: Any) -> Response:
    if isinstance(result, Response):
        return result
    result = result if isinstance(result, ViewResult) else ViewResult(result)
    headers = {**result.headers, "Cache-Control": "no-store"} if result.is_secret else result.headers
    return http.make_json_response(_render_body(operation, result), result.status or operation.status, headers)


def _render_body(operation: Operation, result: Any) -> bytes:
    result = result if isinstance(result, ViewResult) else ViewResult(result)
    data = operation.dump_common(result.data) if operation.dump_common else None
    if data is None:
        data = operation.returns.dump(result.data) if operation.returns else result.data
    envelope = {"success": True, "data": data}
    if result.message:
        envelope["message"] = result.message
    return orjson.dumps(envelope, option=orjson.OPT_UTC_Z)


def find_replay(operation: Operation | None) -> Response | None:
    """The stored response of the current request; None when there is none. Opens its own transaction."""
    try:
        idempotent_request = _idempotent_request(operation) if operation else None
    except ApiError:
        return None
    stored = idempotency.find_response(idempotent_request) if idempotent_request else None
    return _replay(stored) if stored else None


def _idempotent_request(operation: Operation) -> IdempotentRequest | None:
    text = request.environ.get("HTTP_IDEMPOTENCY_KEY")
    if text is None or request.method != "POST":
        return None
    key = idempotency.parse_key(text)
    principal = g.get("principal")
    if key is None or principal is None or not operation.is_replayable:
        return None
    body = http.read_json(request, has_long_text=operation.has_long_text) if operation.body else {}
    fingerprint = idempotency.fingerprint(principal, request.method, request.path, body)
    render = functools.partial(_render_body, operation)
    return IdempotentRequest(principal.tenant_id, principal.mode, key, fingerprint, operation.status, render)


def _store_response(idempotent_request: IdempotentRequest, response: Response) -> None:
    headers = {
        name: value for name, value in response.headers.items() if name not in ("Content-Type", "Content-Length")
    }
    stored = StoredResponse(response.status_code, response.get_data(), headers)
    is_secret = headers.get("Cache-Control") == "no-store"
    idempotency.store_response(engine.session(), idempotent_request, stored, is_secret=is_secret)


def _replay(stored: StoredResponse) -> Response:
    g.is_replayed = True
    return http.make_json_response(stored.body, stored.status, {**stored.headers, "Idempotency-Replayed": "true"})
