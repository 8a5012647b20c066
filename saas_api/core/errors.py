"""Errors that become HTTP responses: `ApiError` and a subclass for each status."""

from collections.abc import Iterable
from typing import Any, ClassVar, Self


class ApiError(Exception):
    """An error response. Domains subclass the class of a status and set `code` and `message`.

    constraint: a database constraint whose violation means this error
    field: with `constraint`: the field of the request that violates it
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL_ERROR"
    message: str = "Something went wrong on our side."
    constraint: ClassVar[str | None] = None
    field: ClassVar[str | None] = None
    by_constraint: ClassVar[dict[str, type["ApiError"]]] = {}

    def __init__(
        self,
        message: str | None = None,
        *,
        details: dict[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        """Create an error.

        message: replaces the message of the class
        details: JSON-ready
        retry_after: seconds
        """
        self.message = message or type(self).message
        self.details = details or {}
        self.retry_after = retry_after
        super().__init__(self.message)

    def __init_subclass__(cls) -> None:
        """Register the database constraint of the class."""
        if "constraint" in vars(cls) and cls.constraint:
            ApiError.by_constraint[cls.constraint] = cls


class BadRequest(ApiError):
    """The request is malformed."""

    status, code, message = 400, "INVALID_REQUEST", "The request could not be read."


class InvalidOneTimeToken(BadRequest):
    """A one-time token is unknown, used, expired or revoked; the response does not tell which."""

    code, message = "INVALID_TOKEN", "This link is invalid or has expired."


class Unauthenticated(ApiError):
    """The credentials are missing or not valid."""

    status, code, message = 401, "UNAUTHORIZED", "Sign in or send an API key."


class PaymentRequired(ApiError):
    """The organization must pay first."""

    status, code, message = 402, "PAYMENT_REQUIRED", "A payment is required first."


class Forbidden(ApiError):
    """The caller is authenticated and lacks the permission."""

    status, code, message = 403, "PERMISSION_DENIED", "Your role does not have permission for this."


class NotFound(ApiError):
    """The resource does not exist, or the caller has no access to it."""

    status, code, message = 404, "NOT_FOUND", "Not found."


class MethodNotAllowed(ApiError):
    """The path does not support the method."""

    status, code, message = (
        405,
        "METHOD_NOT_ALLOWED",
        "This URL does not support that method.",
    )


class RequestTimeout(ApiError):
    """The request did not arrive completely in time; the connection is closed."""

    status, code, message = 408, "REQUEST_TIMEOUT", "The request did not arrive in time."


class Conflict(ApiError):
    """The current state of the resource does not allow the request."""

    status, code, message = 409, "CONFLICT", "The request conflicts with the current state."


class Gone(ApiError):
    """The resource existed and was removed."""

    status, code, message = 410, "GONE", "This no longer exists."


class PayloadTooLarge(ApiError):
    """The body is over the limit."""

    status, code, message = 413, "BODY_TOO_LARGE", "The request body is too large."


class UriTooLong(ApiError):
    """The address of the request is too long."""

    status, code, message = 414, "URI_TOO_LONG", "The URL is too long."


class UnsupportedMediaType(ApiError):
    """The body is not JSON."""

    status, code, message = (
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        "Send JSON with Content-Type: application/json.",
    )


class EncodedBody(UnsupportedMediaType):
    """The body is compressed; the response names the encodings that are taken."""

    message = "Send the body uncompressed, without Content-Encoding."


class ValidationFailed(ApiError):
    """Fields of the request are not valid."""

    status, code, message = 422, "VALIDATION_ERROR", "Some fields are not valid."

    @classmethod
    def from_fields(cls, problems: Iterable[tuple[str, str]]) -> Self:
        """Make the error for several fields.

        problems: pairs of field and reason
        """
        return cls(details={"fields": [{"field": field, "reason": reason} for field, reason in problems]})

    @classmethod
    def at_field(cls, field: str, reason: str) -> Self:
        """Make the error for one field."""
        return cls.from_fields([(field, reason)])


class TooManyRequests(ApiError):
    """A rate limit is exceeded."""

    status, code, message = 429, "RATE_LIMIT_EXCEEDED", "Too many requests; slow down."


class HeadersTooLarge(ApiError):
    """The request has too many headers, or one that is too long."""

    status, code, message = 431, "HEADERS_TOO_LARGE", "The request headers are too large."


class ServiceUnavailable(ApiError):
    """A dependency does not respond; the same request may succeed later."""

    status, code, message = (
        503,
        "SERVICE_UNAVAILABLE",
        "The service is not available right now; try again shortly.",
    )
