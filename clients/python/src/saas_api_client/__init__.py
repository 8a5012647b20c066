"""Client of the SaaS API platform; README.md shows how to use it."""

from saas_api_client._clients import AsyncClient, Client
from saas_api_client.buffer import AsyncEventBuffer, EventBuffer, RejectedEvent
from saas_api_client.errors import (
    ApiError,
    AuthenticationError,
    BufferClosedError,
    BufferFullError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PaymentRequiredError,
    PermissionDeniedError,
    PlatformUnreachableError,
    RateLimitError,
    SaasApiError,
    ServerError,
    ValidationError,
    WebhookVerificationError,
)
from saas_api_client.events import Event
from saas_api_client.models import Hold, Verification
from saas_api_client.webhooks import verify_webhook

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncEventBuffer",
    "AuthenticationError",
    "BufferClosedError",
    "BufferFullError",
    "Client",
    "ConflictError",
    "Event",
    "EventBuffer",
    "Hold",
    "InvalidRequestError",
    "NotFoundError",
    "PaymentRequiredError",
    "PermissionDeniedError",
    "PlatformUnreachableError",
    "RateLimitError",
    "RejectedEvent",
    "SaasApiError",
    "ServerError",
    "ValidationError",
    "Verification",
    "WebhookVerificationError",
    "verify_webhook",
]
