"""ApiError and its subclasses by HTTP status."""

from collections.abc import Iterable
from typing import Any, ClassVar, Self


class ApiError(Exception):
    """An answer that is not a success; rooms subclass its children in three lines."""

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
        """Describe what went wrong.

        message: for a person; the class has a good one
        details: JSON-ready
        retry_after: seconds
        """
        self.message = message or type(self).message
        self.details = details or {}
        self.retry_after = retry_after
        super().__init__(self.message)

    def __init_subclass__(cls) -> None:
        """Register the database constraint whose violation means this error."""
        if "constraint" in vars(cls) and cls.constraint:
            ApiError.by_constraint[cls.constraint] = cls


class BadRequest(ApiError):
    """The request cannot be read."""

    status, code, message = 400, "INVALID_REQUEST", "The request cannot be read."


class InvalidOneTimeToken(BadRequest):
    """A link's token is wrong, spent, expired or somebody else's: one answer."""

    code, message = "INVALID_TOKEN", "This link is not valid, or no longer."


class Unauthenticated(ApiError):
    """Nobody, or nobody we know, is calling."""

    status, code, message = 401, "UNAUTHORIZED", "Sign in or send an API key."


class PaymentRequired(ApiError):
    """Money is missing."""

    status, code, message = 402, "PAYMENT_REQUIRED", "A payment is needed first."


class Forbidden(ApiError):
    """The caller is known and may not do this."""

    status, code, message = 403, "PERMISSION_DENIED", "Your role does not allow this."


class NotFound(ApiError):
    """There is no such thing, or it belongs to somebody else."""

    status, code, message = 404, "NOT_FOUND", "There is nothing here."


class MethodNotAllowed(ApiError):
    """The path exists, the method does not."""

    status, code, message = (
        405,
        "METHOD_NOT_ALLOWED",
        "This address does not answer that method.",
    )


class Conflict(ApiError):
    """The present state does not allow it."""

    status, code, message = 409, "CONFLICT", "This conflicts with what exists."


class Gone(ApiError):
    """It existed once."""

    status, code, message = 410, "GONE", "This no longer exists."


class PayloadTooLarge(ApiError):
    """The body is over the limit."""

    status, code, message = 413, "BODY_TOO_LARGE", "The body is too large."


class UnsupportedMediaType(ApiError):
    """The body is not JSON."""

    status, code, message = (
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        "Send JSON with Content-Type: application/json.",
    )


class ValidationFailed(ApiError):
    """The request was read and breaks a rule."""

    status, code, message = 422, "VALIDATION_ERROR", "Some fields are not valid."

    @classmethod
    def from_fields(cls, problems: Iterable[tuple[str, str]]) -> Self:
        """Report every (field, reason) at once."""
        return cls(details={"fields": [{"field": field, "reason": reason} for field, reason in problems]})

    @classmethod
    def at_field(cls, field: str, reason: str) -> Self:
        """Report one field."""
        return cls.from_fields([(field, reason)])


class TooManyRequests(ApiError):
    """A limit is used up for now."""

    status, code, message = 429, "RATE_LIMIT_EXCEEDED", "Too many requests; slow down."


class ServiceUnavailable(ApiError):
    """Something we need is away; the same request will work later."""

    status, code, message = (
        503,
        "SERVICE_UNAVAILABLE",
        "The service is not available right now; try again shortly.",
    )
