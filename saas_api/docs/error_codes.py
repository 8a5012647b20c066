"""The error codes of the API, with what each means, what to do, and which operations answer with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import groupby
from typing import Any

import orjson

from saas_api.core.errors import ApiError
from saas_api.docs import examples, highlighting, openapi
from saas_api.docs.highlighting import Sample

ADVICE: Mapping[int, tuple[str, str]] = {
    400: ("Correct the request; the same one fails again.", "errors"),
    401: ("Check the credentials that you send. Repeating the request does not help.", "api-keys"),
    402: ("The organization has to pay an invoice, or raise its spend cap, before the call is accepted.", "billing"),
    403: ("Use credentials that are allowed to do this, or ask an owner or admin of the organization.", "api-keys"),
    404: ("Check the id, and that your credentials are of the organization and mode that has the object.", "errors"),
    405: ("Use a method that the path supports; the reference lists them.", "requests"),
    409: ("Read the object to see its state, then decide. A repeat fails as long as the state stays.", "errors"),
    413: ("Send a smaller body.", "requests"),
    415: ("Send JSON with the header `Content-Type: application/json`, uncompressed.", "requests"),
    422: ("Correct what `details` names; the same request fails again.", "errors"),
    429: ("Wait as many seconds as `Retry-After` says, then repeat the request.", "rate-limits"),
    500: ("Repeat it with the same `Idempotency-Key`. If it keeps failing, send us the `request_id`.", "idempotency"),
    503: ("Wait as many seconds as `Retry-After` says, then repeat it with the same `Idempotency-Key`.", "idempotency"),
}  # fmt: skip
"""What to do about a status, and the guide that says more. Other statuses are those of malformed requests: 400."""


@dataclass(frozen=True)
class Refusal:
    """An answer of one status and code.

    reasons: when it occurs, without repetitions
    example: of the most general of them
    """

    code: str
    status: int
    reasons: Sequence[str]
    example: Sample

    @property
    def status_line(self) -> str:
        """Status and phrase, such as "404 Not Found"."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"

    @property
    def advice(self) -> tuple[str, str]:
        """What to do, and the slug of the guide that says more."""
        return ADVICE.get(self.status, ADVICE[400])


@dataclass(frozen=True)
class ErrorCode:
    """A code.

    refusals: by status
    operations: ids of the operations that answer with it
    """

    code: str
    refusals: Sequence[Refusal]
    operations: Sequence[str]


def list_error_codes(document: Mapping[str, Any]) -> dict[str, ErrorCode]:
    """Every code of the imported domains, sorted by name.

    document: the OpenAPI document
    """
    operations = _operations_by_code(document)
    refusals: dict[str, list[Refusal]] = {}
    for (_, code), kinds in groupby(openapi.list_error_types(), key=lambda kind: (kind.status, kind.code)):
        refusals.setdefault(code, []).append(_refusal(list(kinds), document["servers"][0]["url"]))
    return {code: ErrorCode(code, refusals[code], operations.get(code, ())) for code in sorted(refusals)}


def describe(error_type: type[ApiError]) -> str:
    """When an error occurs: the first line of its docstring."""
    return (error_type.__doc__ or "").strip().partition("\n")[0]


def _refusal(kinds: Sequence[type[ApiError]], server_url: str) -> Refusal:
    reasons = list(dict.fromkeys(describe(kind) for kind in kinds))
    return Refusal(kinds[0].code, kinds[0].status, reasons, _answer(kinds[0], server_url))


def _answer(kind: type[ApiError], server_url: str) -> Sample:
    text = orjson.dumps(examples.error_example(kind, server_url), option=orjson.OPT_INDENT_2).decode()
    return highlighting.make_sample(text, "json", "Example answer")


def _operations_by_code(document: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if status >= "400":
                    for code in response["content"]["application/json"]["examples"]:
                        found.setdefault(code, []).append(operation["operationId"])
    return found
