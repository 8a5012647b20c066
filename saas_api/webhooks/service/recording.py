"""Writing down what came of attempts, in bulk and only under the lease's token, with the health of the endpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import observe
from saas_api.core.settings import setting
from saas_api.core.tenancy import transaction
from saas_api.webhooks import rules
from saas_api.webhooks.service.claiming import Claimed, Owner
from saas_api.webhooks.service.disabling import disable
from saas_api.webhooks.service.endpoints import announce, cancel_queued

log = observe.get_logger(__name__)

SNIPPET_BYTES = 8_192
_GONE = 410
_HOLD = sa.text("""
SELECT status = 'enabled' AND deleted_at IS NULL FROM webhook_endpoints
WHERE organization_id = :org AND id = :endpoint FOR NO KEY UPDATE
""")
_WRITE = sa.text("""
UPDATE webhook_deliveries d SET status = v.status, last_status = v.code, error_code = v.error, lease_token = NULL,
  next_at = CASE WHEN v.status = 'queued' THEN now() + make_interval(secs => v.delay) END,
  finished_at = CASE WHEN v.status <> 'queued' THEN now() END
FROM unnest(CAST(:ids AS uuid[]), CAST(:statuses AS text[]), CAST(:codes AS int[]), CAST(:errors AS text[]),
  CAST(:delays AS float8[])) AS v (id, status, code, error, delay)
WHERE d.organization_id = :org AND d.id = v.id AND d.status = 'sending' AND d.lease_token = :token RETURNING d.id
""")
_LOG = sa.text("""
UPDATE webhook_attempts a SET ended_at = now(), status_code = v.code, duration_ms = v.ms, error = v.text,
  outcome = v.outcome, response_snippet = v.snippet
FROM unnest(CAST(:ids AS uuid[]), CAST(:numbers AS int[]), CAST(:codes AS int[]), CAST(:durations AS int[]),
  CAST(:texts AS text[]), CAST(:outcomes AS text[]), CAST(:snippets AS text[]))
  AS v (id, n, code, ms, text, outcome, snippet)
WHERE a.organization_id = :org AND a.delivery_id = v.id AND a.n = v.n AND a.outcome = 'started'
""")
_WELL = sa.text("""
UPDATE webhook_endpoints SET consecutive_failures = 0, first_failure_at = NULL, last_success_at = now(),
  in_flight_limit = least(max_in_flight, 2 * in_flight_limit)
WHERE organization_id = :org AND id = :endpoint
""")
_ILL = sa.text("""
UPDATE webhook_endpoints SET consecutive_failures = consecutive_failures + :failures, in_flight_limit = 1,
  first_failure_at = coalesce(first_failure_at, now())
WHERE organization_id = :org AND id = :endpoint
""")


@dataclass(frozen=True)
class Result:
    """What came of an attempt.

    outcome: "ok", "http_error", "timeout", "connection", "blocked" or "interrupted"
    error: for a person
    """

    claimed: Claimed
    outcome: str
    duration_ms: int | None = None
    status: int | None = None
    body: bytes = b""
    retry_after: int | None = None
    error: str | None = None


def record(owner: Owner, token: UUID, results: Sequence[Result]) -> int:
    """Bring deliveries to their next state.

    returns: how many of them were no longer ours
    """
    organization_id, endpoint_id = owner
    is_gone = any(result.status == _GONE for result in results)
    with transaction(organization_id) as session:
        if is_gone:
            announce(session, organization_id)
        is_open = session.scalar(_HOLD, {"org": organization_id, "endpoint": endpoint_id})
        kept = set(session.scalars(_WRITE, _states(organization_id, token, results)))
        ours = [result for result in results if result.claimed.id in kept]
        if ours:
            session.execute(_LOG, _log(organization_id, ours))
            _note_health(session, owner, ours)
        if any(result.status == _GONE for result in ours):
            disable(session, organization_id, endpoint_id, "disabled_gone")
        if not is_open:
            cancel_queued(session, organization_id, endpoint_id)
    lost = len(results) - len(kept)
    if lost:
        log.warning("leases_lost", count=lost)
    return lost


def _states(organization_id: UUID, token: UUID, results: Sequence[Result]) -> dict[str, Any]:
    decided = [_next(result) for result in results]
    return {
        "org": organization_id,
        "token": token,
        "ids": [result.claimed.id for result in results],
        "codes": [result.status for result in results],
        "statuses": [status for status, _, _ in decided],
        "errors": [error for _, error, _ in decided],
        "delays": [delay for _, _, delay in decided],
    }


def _next(result: Result) -> tuple[str, str | None, float]:
    """Status, error code, and seconds until the next try."""
    if result.outcome == "ok":
        return "delivered", None, 0.0
    error = f"http_{result.status}" if result.status else result.error if result.error == "poisoned" else result.outcome
    failed = result.claimed.tries + 1
    if result.status == _GONE or result.outcome == "interrupted" or failed >= rules.LAST_TRY:
        return "failed", error, 0.0
    status = None if result.outcome == "timeout" else result.status or 0
    seconds = rules.retry_seconds(failed, status, result.retry_after)
    return "queued", error, seconds / setting("TIME_SCALE")


def _log(organization_id: UUID, results: Sequence[Result]) -> dict[str, Any]:
    return {
        "org": organization_id,
        "ids": [result.claimed.id for result in results],
        "numbers": [result.claimed.attempt for result in results],
        "codes": [result.status for result in results],
        "durations": [result.duration_ms for result in results],
        "texts": [result.error for result in results],
        "outcomes": [result.outcome for result in results],
        "snippets": [_snippet(result.body) for result in results],
    }


def _snippet(body: bytes) -> str | None:
    text = body.decode("utf-8", "replace").replace("\0", "\ufffd")
    return text.encode()[:SNIPPET_BYTES].decode("utf-8", "ignore") or None


def _note_health(session: Session, owner: Owner, results: Sequence[Result]) -> None:
    failures = sum(result.outcome != "ok" for result in results)
    values = {"org": owner[0], "endpoint": owner[1], "failures": failures}
    if failures < len(results):
        session.execute(_WELL, values)
    if failures:
        session.execute(_ILL, values)
