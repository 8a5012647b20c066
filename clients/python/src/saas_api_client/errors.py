"""Errors of calls to the platform."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional


class SaasApiError(Exception):
    """Any error of this library."""


class PlatformUnreachableError(SaasApiError):
    """No answer from the platform, after every retry that was allowed."""


class InvalidRequestError(SaasApiError, ValueError):
    """Nothing was sent: a text of the request has a lone surrogate, which UTF-8 cannot encode."""


class WebhookVerificationError(SaasApiError, ValueError):
    """The request was not signed with this secret, or its signature is too old."""


class BufferFullError(SaasApiError):
    """The event was not taken: the buffer stayed full for as long as `record` may wait."""


class BufferClosedError(SaasApiError):
    """The event was not taken: the buffer is closed."""


class ApiError(SaasApiError):
    """The platform answered with an error.

    status: of the HTTP response
    code: stable name such as SPEND_CAP_REACHED; UNEXPECTED_RESPONSE when the response was not the platform's
    details: depend on the code
    request_id: names the call in the platform's log
    retry_after_seconds: how long the platform asks to wait
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        details: Optional[Mapping[str, Any]] = None,
        request_id: Optional[str] = None,
        retry_after_seconds: Optional[float] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.details: Mapping[str, Any] = details or {}
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"


class AuthenticationError(ApiError):
    """401: the token is missing, malformed, expired or revoked."""


class PaymentRequiredError(ApiError):
    """402: the spend cap is reached, or an invoice is overdue."""


class PermissionDeniedError(ApiError):
    """403: the token, key or role may not do this."""


class NotFoundError(ApiError):
    """404: there is no such object in this organization."""


class ConflictError(ApiError):
    """409: the object's state does not allow this, such as HOLD_ENDED."""


class ValidationError(ApiError):
    """422: some fields are not valid."""

    @property
    def fields(self) -> Mapping[str, str]:
        """Reasons by name of the field."""
        return {item["field"]: item["reason"] for item in self.details.get("fields", [])}


class RateLimitError(ApiError):
    """429: a rate limit or a quota is exceeded."""


class ServerError(ApiError):
    """5xx: the platform failed, or is not available right now."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: AuthenticationError,
    402: PaymentRequiredError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: ValidationError,
    429: RateLimitError,
}


def kind_of(status: int) -> type[ApiError]:
    """Return the type of the errors with a status."""
    return ServerError if status >= 500 else _BY_STATUS.get(status, ApiError)
