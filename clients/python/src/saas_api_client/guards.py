"""Checks the key of a request to your API; `flask`, `asgi`, `fastapi` and `django` fit this to a framework."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Optional

from saas_api_client import _operations, errors, models
from saas_api_client._clients import AsyncClient, Client
from saas_api_client._exchange import Operation
from saas_api_client._operations import Quantity

log = logging.getLogger("saas_api_client")

RETRY_AFTER_SECONDS = 5
MAX_KEY_LENGTH = 255
WINDOW_SECONDS = 60
_ENDPOINT = re.compile(r"[A-Z]{1,10} /[!-~]{0,200}")
"""What the platform takes; a route of other characters is not reported."""
REFUSALS: Mapping[str, tuple[int, str, str]] = {
    "NOT_FOUND": (401, "INVALID_API_KEY", "This API key is not valid."),
    "INSUFFICIENT_SCOPE": (403, "INSUFFICIENT_SCOPE", "This API key lacks the scope for that."),
    "IP_NOT_ALLOWED": (403, "IP_NOT_ALLOWED", "This API key may not be used from your address."),
    "ORGANIZATION_SUSPENDED": (403, "ORGANIZATION_SUSPENDED", "This organization is suspended."),
    "SPEND_CAP_REACHED": (402, "SPEND_CAP_REACHED", "The spend cap of this billing period is reached."),
    "SUBSCRIPTION_RESTRICTED": (402, "SUBSCRIPTION_RESTRICTED", "An invoice is overdue; pay it to go on."),
    "RATE_LIMITED": (429, "RATE_LIMIT_EXCEEDED", "Too many requests; slow down."),
    "QUOTA_EXCEEDED": (429, "QUOTA_EXCEEDED", "The quota of this billing period is used up."),
}
"""Status, code and message of your API's answer, by code of the verification."""


@dataclass(frozen=True)
class Policy:
    """What a call needs and what is recorded for it; the parameters of `Client.verify`."""

    permission: Optional[str] = None
    meter: Optional[str] = None
    quantity: Optional[Quantity] = None
    dimensions: Optional[Mapping[str, str]] = None
    hold_seconds: Optional[int] = None


@dataclass(frozen=True)
class Caller:
    """What a request says about who makes it.

    api_key: value of X-API-Key
    authorization: value of Authorization
    ip: the customer's address
    endpoint: such as "POST /v1/lookups"; None where the route is not known
    """

    api_key: Optional[str]
    authorization: Optional[str]
    ip: Optional[str]
    endpoint: Optional[str] = None


class KeyRefused(Exception):
    """The request must not go on: status, headers and body of the answer."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Optional[Mapping[str, Any]] = None,
        headers: Optional[Mapping[str, str]] = None,
    ) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        request_id = f"req_{uuid.uuid4().hex[:24]}"
        self.headers = {"Content-Type": "application/json", "X-Request-Id": request_id, **(headers or {})}
        error = {"code": code, "message": message, "details": details or {}, "request_id": request_id}
        self.body = json.dumps({"success": False, "error": error}).encode()


class Guard:
    """Checks keys with a client.

    fail_open: let calls pass, unmetered and with None for their verification, while the platform cannot be reached;
        otherwise they get 503
    """

    def __init__(self, client: Client, *, fail_open: bool = False) -> None:
        self._client = client
        self._fail_open = fail_open

    def check(self, caller: Caller, policy: Policy) -> Optional[models.Verification]:
        """Verify the key of a request.

        raises: KeyRefused
        """
        question = ask(caller, policy)
        try:
            return accept(self._client.call(question))
        except errors.SaasApiError as error:
            require_outage(error, fail_open=self._fail_open)
            return None

    def take_back(self, verification: Optional[models.Verification]) -> None:
        """Reverse what was recorded or held for a call that failed. A fault is logged: it must not hide the first."""
        operation = undo(verification)
        try:
            if operation is not None:
                self._client.call(operation)
        except errors.SaasApiError as error:
            log_not_taken_back(error)


class AsyncGuard:
    """Checks keys with an asynchronous client; as `Guard` does."""

    def __init__(self, client: AsyncClient, *, fail_open: bool = False) -> None:
        self._client = client
        self._fail_open = fail_open

    async def check(self, caller: Caller, policy: Policy) -> Optional[models.Verification]:
        """Verify the key of a request.

        raises: KeyRefused
        """
        question = ask(caller, policy)
        try:
            return accept(await self._client.call(question))
        except errors.SaasApiError as error:
            require_outage(error, fail_open=self._fail_open)
            return None

    async def take_back(self, verification: Optional[models.Verification]) -> None:
        """Reverse what was recorded or held for a call that failed. A fault is logged: it must not hide the first."""
        operation = undo(verification)
        try:
            if operation is not None:
                await self._client.call(operation)
        except errors.SaasApiError as error:
            log_not_taken_back(error)


def ask(caller: Caller, policy: Policy) -> Operation[models.Verification]:
    """Return the call that verifies the key of a request.

    raises: KeyRefused when there is no key
    """
    key = caller.api_key
    scheme, _, credentials = (caller.authorization or "").partition(" ")
    if not key and scheme.lower() == "bearer":
        key = credentials.strip()
    if key and not (len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        raise _refusal(*REFUSALS["NOT_FOUND"], {})
    if not key:
        raise KeyRefused(
            401, "MISSING_API_KEY", "Send an API key: X-API-Key: <key>.", headers={"WWW-Authenticate": "Bearer"}
        )
    return _operations.verify(
        key,
        permission=policy.permission,
        meter=policy.meter,
        quantity=policy.quantity,
        dimensions=policy.dimensions,
        hold_seconds=policy.hold_seconds,
        ip=caller.ip if caller.ip and _is_address(caller.ip) else None,
        endpoint=caller.endpoint if caller.endpoint and _ENDPOINT.fullmatch(caller.endpoint) else None,
    )


def accept(verification: models.Verification) -> models.Verification:
    """Return a verification that lets the call pass.

    raises: KeyRefused
    """
    if verification.valid:
        return verification
    status, code, message = REFUSALS.get(verification.code, (403, verification.code, "This call is not permitted."))
    headers = rate_limit_headers(verification)
    if verification.retry_after_seconds is not None:
        headers["Retry-After"] = str(verification.retry_after_seconds)
    raise _refusal(status, code, message, headers, verification.details)


def _refusal(
    status: int, code: str, message: str, headers: Mapping[str, str], details: Optional[Mapping[str, Any]] = None
) -> KeyRefused:
    challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'} if status == 401 else {}
    return KeyRefused(status, code, message, details=details, headers={**headers, **challenge})


def _is_address(text: str) -> bool:
    """Return whether a text is an IP address; a server on a Unix socket names none."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def require_outage(error: errors.SaasApiError, *, fail_open: bool) -> None:
    """Return when a call may pass whose key could not be verified.

    An answer such as 401 or 422 is a fault of this service's settings, for which no call passes.

    raises: KeyRefused
    """
    is_away = isinstance(error, (errors.PlatformUnreachableError, errors.ServerError))
    if is_away and fail_open:
        log.warning("a call passes unverified: %s", error)
        return
    log.error("a key could not be verified: %s", error)
    raise KeyRefused(
        503,
        "SERVICE_UNAVAILABLE",
        "The service is not available right now; try again shortly.",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    ) from error


def undo(verification: Optional[models.Verification]) -> Optional[Operation[Any]]:
    """Return the call that reverses what a verification recorded or releases what it held; None when it did neither."""
    if verification is None:
        return None
    if verification.hold_id:
        return _operations.release(verification.hold_id)
    return _operations.reverse(verification.usage_event_id) if verification.usage_event_id else None


def log_not_taken_back(error: errors.SaasApiError) -> None:
    """Log that usage of a failed call stays recorded, unless a hold was settled or released before."""
    if not (isinstance(error, errors.ConflictError) and error.code == "HOLD_ENDED"):
        log.error("usage of a failed call was not reversed: %s", error)


def rate_limit_headers(verification: Optional[models.Verification]) -> dict[str, str]:
    """Return the headers that say what is left of the customer's tightest limit.

    source: draft-ietf-httpapi-ratelimit-headers-11, and the older X-RateLimit fields
    """
    limits = (verification.limits or []) if verification else []
    if not limits:
        return {}
    tightest = min(limits, key=lambda one: one.remaining)
    seconds = max(0, int((tightest.reset_at - datetime.now(timezone.utc)).total_seconds() + 0.999))
    return {
        "X-RateLimit-Limit": str(tightest.limit),
        "X-RateLimit-Remaining": str(tightest.remaining),
        "X-RateLimit-Reset": str(int(tightest.reset_at.timestamp())),
        "RateLimit-Policy": ", ".join(f'"{one.name}";q={one.limit};w={WINDOW_SECONDS}' for one in limits),
        "RateLimit": f'"{tightest.name}";r={tightest.remaining};t={seconds}',
    }
