"""What stands around every page: how the organization is, gravest first."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

_STATE = text("""
SELECT o.status, coalesce(s.standing, 'good') AS standing,
  EXISTS (SELECT FROM invoices i WHERE i.organization_id = o.id AND i.state = 'open' AND i.due_at < :at) AS is_past_due,
  EXISTS (SELECT FROM billing_periods p JOIN events e ON e.organization_id = p.organization_id
     AND e.type = 'spend_cap.reached' AND e.subject_id = p.id
    WHERE p.organization_id = o.id AND p.state = 'open' AND p.ends_at > :at) AS is_cap_reached,
  (SELECT count(*) FROM webhook_endpoints w WHERE w.organization_id = o.id
    AND w.status IN ('disabled_failing', 'disabled_gone') AND w.deleted_at IS NULL) AS disabled_endpoints
  FROM organizations o LEFT JOIN subscriptions s ON s.organization_id = o.id WHERE o.id = :organization_id
""")


@dataclass(frozen=True)
class State:
    """How an organization is.

    status: the operator's switch
    standing: what unpaid invoices have led to
    """

    status: str
    standing: str
    is_past_due: bool
    is_cap_reached: bool
    disabled_endpoints: int


def state(session: Session, organization_id: UUID, at: datetime) -> State:
    """How an organization is at an instant."""
    row = session.execute(_STATE, {"organization_id": organization_id, "at": at}).one()
    return State(*row)
