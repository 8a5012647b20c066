"""What a call is and when it is sent again, without input or output: the clients do what `exchange` says."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Optional, TypeVar, Union

import httpx

from saas_api_client import _decoding, errors

T = TypeVar("T")

API_PREFIX = "/api/v1"
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 5.0
STATUSES_TO_REPEAT = (500, 502, 503, 504)
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Request:
    """A request of the API.

    content: of a body that is JSON already, instead of `body`
    can_repeat: sending it twice has the effect of sending it once
    """

    method: str
    path: str
    query: Optional[Mapping[str, str]] = None
    body: Optional[Mapping[str, Any]] = None
    content: Optional[bytes] = None
    headers: Optional[Mapping[str, str]] = None
    can_repeat: bool = True


@dataclass(frozen=True)
class Operation(Generic[T]):
    """A request and the type of its answer.

    operation_id: in the OpenAPI document
    """

    model: type[T]
    request: Request
    operation_id: str


@dataclass(frozen=True)
class Send:
    """Send the request; the answer is the response, or the error of a connection."""

    timeout_seconds: float


@dataclass(frozen=True)
class Wait:
    """Wait before the next attempt."""

    seconds: float


Step = Union[Send, Wait]
Outcome = Union[httpx.Response, httpx.RequestError, None]


def exchange(
    request: Request, timeout_seconds: float, total_timeout_seconds: float
) -> Generator[Step, Outcome, httpx.Response]:
    """Say step by step how to get the response to a request; `send` takes the outcome of each step.

    timeout_seconds: of one attempt
    total_timeout_seconds: of all attempts and the waits between them; no attempt begins after it
    raises: PlatformUnreachableError, ApiError
    """
    ends_at = time.monotonic() + total_timeout_seconds
    attempt = 1
    while True:
        remaining_seconds = max(ends_at - time.monotonic(), 0.001)
        outcome = yield Send(min(timeout_seconds, remaining_seconds))
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            return outcome
        wait_seconds = _wait_seconds(request, outcome, attempt)
        if wait_seconds is None or time.monotonic() + wait_seconds >= ends_at:
            raise _error(outcome)
        yield Wait(wait_seconds)
        attempt += 1


def parse(operation: Operation[T], response: httpx.Response) -> T:
    """Return the data of a response.

    raises: ApiError with code UNEXPECTED_RESPONSE
    """
    try:
        return _decoding.decode(operation.model, response.json()["data"])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as cause:
        raise _unexpected(response) from cause


def _wait_seconds(request: Request, outcome: Outcome, attempt: int) -> Optional[float]:
    """Return how long to wait before the next attempt, None when there must not be one."""
    backoff_seconds = min(FIRST_WAIT_SECONDS * 2.0 ** (attempt - 1), LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1)  # noqa: S311 - spreads retries
    if not isinstance(outcome, httpx.Response):
        return backoff_seconds if request.can_repeat or isinstance(outcome, _NEVER_SENT) else None
    retry_after = _retry_after_seconds(outcome)
    if outcome.status_code == 429:  # nothing was done; without Retry-After waiting does not help, as with a quota
        return None if retry_after is None else max(retry_after, backoff_seconds)
    is_in_progress = outcome.status_code == 409 and _code(outcome) == "IDEMPOTENCY_IN_PROGRESS"
    if is_in_progress or (request.can_repeat and outcome.status_code in STATUSES_TO_REPEAT):
        return max(retry_after or 0.0, backoff_seconds)
    return None


def _retry_after_seconds(response: httpx.Response) -> Optional[float]:
    value: str = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _error_object(response: httpx.Response) -> Mapping[str, Any]:
    try:
        error = response.json()["error"]
    except (ValueError, TypeError, KeyError):
        return {}
    return error if isinstance(error, dict) else {}


def _code(response: httpx.Response) -> str:
    return str(_error_object(response).get("code", "UNEXPECTED_RESPONSE"))


def _error(outcome: Outcome) -> errors.SaasApiError:
    if not isinstance(outcome, httpx.Response):
        error = errors.PlatformUnreachableError(f"{type(outcome).__name__}: {outcome}")
        error.__cause__ = outcome
        return error
    details = _error_object(outcome)
    if not details:
        return _unexpected(outcome)
    return errors.kind_of(outcome.status_code)(
        str(details.get("message", "")),
        status=outcome.status_code,
        code=_code(outcome),
        details=details.get("details"),
        request_id=details.get("request_id"),
        retry_after_seconds=_retry_after_seconds(outcome),
    )


def _unexpected(response: httpx.Response) -> errors.ApiError:
    """Return the error of a response that is not the platform's, such as a page of a proxy."""
    return errors.kind_of(response.status_code)(
        f"not an answer of the platform: {response.text[:200]!r}",
        status=response.status_code,
        code="UNEXPECTED_RESPONSE",
        request_id=response.headers.get("X-Request-Id"),
        retry_after_seconds=_retry_after_seconds(response),
    )
