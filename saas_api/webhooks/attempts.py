"""One attempt to deliver: the claimed delivery, the signed request, and its result."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from saas_api.core import tracing
from saas_api.core.faults import fault_point
from saas_api.core.jobs.outbox import Claim
from saas_api.core.net import client
from saas_api.core.net.client import DeadlineExceeded
from saas_api.core.net.vetting import AddressNotAllowed, ConnectionFailed
from saas_api.webhooks import payload, retries
from saas_api.webhooks.models import AttemptOutcome
from saas_api.webhooks.retries import MAX_INTERRUPTIONS

DEADLINE_SECONDS, CONNECT_SECONDS = 15.0, 5.0
RESPONSE_EXCERPT_BYTES = 8_192

EndpointKey = tuple[UUID, UUID]
"""An organization and one of its endpoints."""


@dataclass(frozen=True)
class ClaimedDelivery:
    """A delivery to send before the lease of its claim ends.

    attempt: number of the attempt, from 1
    interruptions: earlier attempts without a result
    is_test: the event is a test event, whose failure says nothing about the endpoint's health
    """

    endpoint: EndpointKey
    claim: Claim
    id: UUID
    webhook_id: str
    url: str
    body: bytes
    secrets: tuple[str, ...]
    attempt: int
    interruptions: int
    is_test: bool

    @property
    def failed_attempts(self) -> int:
        """Earlier attempts with a result."""
        return self.attempt - 1 - self.interruptions


@dataclass(frozen=True)
class AttemptResult:
    """Result of one attempt.

    status: of the response
    retry_after: seconds that the endpoint asked for
    request_headers: of the request, with its signatures; None when no request was made
    error: a text for display; "poisoned" for a delivery that was interrupted too often
    """

    delivery: ClaimedDelivery
    outcome: AttemptOutcome
    duration_ms: int | None = None
    status: int | None = None
    body: bytes = b""
    retry_after: int | None = None
    request_headers: Mapping[str, str] | None = None
    error: str | None = None

    @property
    def is_endpoint_failure(self) -> bool:
        """Whether the endpoint did not accept a real event; an interruption is ours."""
        is_failed = self.outcome not in (AttemptOutcome.OK, AttemptOutcome.INTERRUPTED)
        return is_failed and not self.delivery.is_test


def send(delivery: ClaimedDelivery, allowed_networks: tuple[str, ...]) -> AttemptResult:
    """Send one request, signed now; every failure of the endpoint is a result.

    allowed_networks: in which private addresses are allowed
    """
    if delivery.interruptions >= MAX_INTERRUPTIONS:
        return AttemptResult(delivery, AttemptOutcome.INTERRUPTED, error="poisoned")
    sent_at = int(time.time())
    headers = {
        "content-type": "application/json",
        "user-agent": "saas-api-webhooks/1",
        **payload.signature_headers(delivery.secrets, delivery.webhook_id, sent_at, delivery.body),
    }
    with tracing.span("webhook POST", "client"):
        tracing.describe(webhook_id=delivery.webhook_id)
        return _post(delivery, {**headers, **tracing.headers()}, allowed_networks)


def _post(delivery: ClaimedDelivery, headers: Mapping[str, str], allowed_networks: tuple[str, ...]) -> AttemptResult:
    started = time.monotonic()
    try:
        sent = client.request_headers(delivery.url, delivery.body, headers)
        response = client.post_once(
            delivery.url,
            delivery.body,
            sent,
            deadline=DEADLINE_SECONDS,
            connect=CONNECT_SECONDS,
            max_response=RESPONSE_EXCERPT_BYTES,
            allowed=allowed_networks,
        )
    except AddressNotAllowed as error:
        return AttemptResult(delivery, AttemptOutcome.BLOCKED, _elapsed_ms(started), error=str(error))
    except DeadlineExceeded as error:
        return AttemptResult(
            delivery, AttemptOutcome.TIMEOUT, _elapsed_ms(started), request_headers=sent, error=str(error)
        )
    except ConnectionFailed as error:
        return AttemptResult(
            delivery, AttemptOutcome.CONNECTION, _elapsed_ms(started), request_headers=sent, error=str(error)
        )
    fault_point("webhook.after_response")
    outcome = AttemptOutcome.OK if 200 <= response.status < 300 else AttemptOutcome.HTTP_ERROR
    response_headers = {name.lower(): value for name, value in response.headers.items()}
    retry_after = retries.parse_retry_after(response_headers.get("retry-after"), time.time())
    return AttemptResult(delivery, outcome, _elapsed_ms(started), response.status, response.body, retry_after, sent)


def _elapsed_ms(started: float) -> int:
    return round(1000 * (time.monotonic() - started))
