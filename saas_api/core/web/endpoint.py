"""@endpoint: parse, call, envelope, idempotent replay; Operation is the source of OpenAPI."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Required, TypedDict, Unpack

import marshmallow as ma
import orjson
from flask import Response, g, request

from saas_api.core import idempotency
from saas_api.core.db import engine
from saas_api.core.errors import ApiError
from saas_api.core.idempotency import AlreadyAnswered, IdempotentRequest, StoredResponse
from saas_api.core.web import http


@dataclass(frozen=True)
class Result:
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
    metered_units: Callable[[dict[str, Any]], Mapping[str, int]] | None = None
    produces: str = "application/json"
    is_replayable: bool = True

    @property
    def stores_own_replay(self) -> bool:
        """Whether the view keeps its answer under an Idempotency-Key itself."""
        return self.metered_units is not None

    def parse(self) -> dict[str, Any]:
        """The view's arguments from the current request.

        raises: Malformed, TooLarge, UnsupportedMediaType, Invalid with every problem at once
        """
        arguments: dict[str, Any] = {}
        if self.query:
            arguments["query"] = http.load_schema(self.query, request.args.to_dict())
        if self.body:
            arguments["body"] = http.load_schema(self.body, http.read_json(request))
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
    metered_units: Callable[[dict[str, Any]], Mapping[str, int]]
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
            g.once = _idempotent_request(operation)
            try:
                if g.once is not None and not operation.stores_own_replay:
                    idempotency.acquire(engine.session(), g.once)
                response = _to_response(operation, view(**path, **arguments))
            except AlreadyAnswered as replay:
                return _replay_response(replay.response)
            if g.once is not None and not operation.stores_own_replay and response.status_code < 400:
                _store_response(g.once, response)
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


def _to_response(operation: Operation, result: Any) -> Response:
    if isinstance(result, Response):
        return result
    answer = result if isinstance(result, Result) else Result(result)
    headers = {**answer.headers, "Cache-Control": "no-store"} if answer.is_secret else answer.headers
    return http.make_json_response(_render_body(operation, answer), answer.status or operation.status, headers)


def _render_body(operation: Operation, answer: Result) -> bytes:
    data = operation.returns.dump(answer.data) if operation.returns else answer.data
    envelope = {"success": True, "data": data}
    if answer.message:
        envelope["message"] = answer.message
    return orjson.dumps(envelope, option=orjson.OPT_UTC_Z)


def find_replay(operation: Operation | None) -> Response | None:
    """The answer that the current request got before, if it did; in a transaction of its own."""
    try:
        once = _idempotent_request(operation) if operation else None
    except ApiError:
        return None
    kept = idempotency.find_response(once) if once else None
    return _replay_response(kept) if kept else None


def _idempotent_request(operation: Operation) -> IdempotentRequest | None:
    if request.method != "POST":
        return None
    key = idempotency.parse_key(request.headers.get("Idempotency-Key"))
    principal = g.get("principal")
    if key is None or principal is None or not operation.is_replayable:
        return None
    body = http.read_json(request) if operation.body else {}
    print_of = idempotency.fingerprint(principal, request.method, request.path, body)

    def render(result: Any) -> bytes:
        return _render_body(operation, result if isinstance(result, Result) else Result(result))

    return IdempotentRequest(principal.organization_id, key, print_of, operation.status, render)


def _store_response(once: IdempotentRequest, response: Response) -> None:
    own = {name: value for name, value in response.headers.items() if name not in ("Content-Type", "Content-Length")}
    kept = StoredResponse(response.status_code, response.get_data(), own)
    idempotency.store_response(engine.session(), once, kept, is_secret=own.get("Cache-Control") == "no-store")


def _replay_response(kept: StoredResponse) -> Response:
    g.is_replayed = True
    return http.make_json_response(kept.body, kept.status, {**kept.headers, "Idempotency-Replayed": "true"})
