"""Recovering: every event of a time that an endpoint missed is sent to it now, again or for the first time.

What waits for its next try is tried at once; a second delivery beside it would only arrive twice.
"""

from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core import clock, queue
from saas_api.core.access import Principal
from saas_api.core.errors import Invalid
from saas_api.organizations.service import audit
from saas_api.webhooks.service.endpoints import hold_enabled, note
from saas_api.webhooks.service.publishing import DRAIN, WANTS

LONGEST = timedelta(days=30)
_SLACK = timedelta(minutes=5)  # "thirty days ago" was computed a moment ago, on another clock
_RECOVER = sa.text(f"""
WITH known AS (
  SELECT event_id, bool_or(status IN ('delivered', 'queued', 'sending')) AS is_settled
    FROM webhook_deliveries WHERE organization_id = :organization_id AND endpoint_id = :endpoint_id GROUP BY event_id)
INSERT INTO webhook_deliveries (organization_id, event_id, endpoint_id, cause, next_at)
SELECT e.organization_id, e.id, w.id, 'replay', now()
  FROM events e JOIN webhook_endpoints w ON w.organization_id = e.organization_id AND w.id = :endpoint_id
  LEFT JOIN known ON known.event_id = e.id
 WHERE e.organization_id = :organization_id AND e.created_at >= :since AND e.created_at < :until
   AND e.subject_version >= 0
   AND CASE WHEN known.event_id IS NULL THEN :is_missing AND {WANTS} ELSE :is_failed AND NOT known.is_settled END
 ORDER BY e.sequence""")
_HURRY = sa.text("""
UPDATE webhook_deliveries d SET next_at = now() FROM events e
 WHERE d.organization_id = :organization_id AND d.endpoint_id = :endpoint_id AND d.status = 'queued'
   AND d.attempts > 0 AND d.next_at > now() AND e.organization_id = d.organization_id AND e.id = d.event_id
   AND e.created_at >= :since AND e.created_at < :until AND e.subject_version >= 0 AND :is_failed""")


def recover(
    session: Session,
    by: Principal | audit.Actor | None,
    target: tuple[UUID, UUID],
    since: datetime,
    until: datetime | None = None,
    which: str = "all",
) -> int:
    """Queue what an endpoint missed; what it got is left alone. A repeat finds nothing new.

    by: None for the platform
    target: organization and endpoint
    since, until: instants, the second one excluded; None for now
    which: "failed" for what was tried in vain, is between two tries, or was canceled; "missing" for what was never
        tried; "all" for both
    returns: how many deliveries are on their way for it
    raises: Invalid for a span of over 30 days, NoSuchEndpoint, EndpointDisabled
    """
    ends_at = until or clock.now()
    if since >= ends_at:
        raise Invalid.at("since", "Must lie before the end.")
    if ends_at - since > LONGEST + _SLACK:
        raise Invalid.at("since", "Must lie at most 30 days before the end.")
    organization_id, endpoint_id = target
    endpoint = hold_enabled(session, organization_id, endpoint_id)
    values = {
        "organization_id": organization_id,
        "endpoint_id": endpoint_id,
        "since": since,
        "until": ends_at,
        "is_missing": which != "failed",
        "is_failed": which != "missing",
    }
    count = sum(session.connection().execute(statement, values).rowcount for statement in (_HURRY, _RECOVER))
    if count:
        queue.enqueue(session, DRAIN)
    asked = {"since": clock.rfc3339(since), "until": clock.rfc3339(ends_at), "only": which, "deliveries": count}
    note(session, by, endpoint, "recovered", asked)
    return count
