"""Taking back the usage of messages that reached nobody, in the transaction that says so."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.core.ids import new_id

_REVERSE = sa.text("""
INSERT INTO usage_events (organization_id, id, source, idempotency_key, meter_code, quantity, occurred_at, api_key_id,
  message_id, billing_period_id, late_for_period_id, reversal_of)
SELECT u.organization_id, v.reversal_id, 'reversal', u.id::text, u.meter_code, -u.quantity, u.occurred_at,
  u.api_key_id, m.id,
  CASE p.state WHEN 'open' THEN p.id ELSE (SELECT id FROM billing_periods WHERE organization_id = :org
    AND state = 'open' ORDER BY seq LIMIT 1) END,
  CASE p.state WHEN 'open' THEN u.late_for_period_id ELSE coalesce(u.late_for_period_id, p.id) END, u.id
FROM unnest(CAST(:ids AS uuid[]), CAST(:reversal_ids AS uuid[])) AS v (id, reversal_id)
JOIN messages m ON m.organization_id = :org AND m.id = v.id AND m.status IN ('failed', 'canceled')
  AND m.finished_at = now()
JOIN usage_events u ON u.organization_id = :org AND u.source = 'messages.send' AND u.idempotency_key = m.id::text
JOIN billing_periods p ON p.organization_id = :org AND p.id = u.billing_period_id
JOIN meters t ON t.code = u.meter_code AND t.reverse_on_failure
""")


def reverse(session: Session, organization_id: UUID, ids: Sequence[UUID]) -> None:
    """Write one reversal for each of the messages that this transaction failed or canceled.

    The shared period lock is held already.
    raises: IntegrityError on usage_events.billing_period_id where no period is open
    """
    if ids:
        values = {"org": organization_id, "ids": list(ids), "reversal_ids": [new_id() for _ in ids]}
        session.execute(_REVERSE, values)
