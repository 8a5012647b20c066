"""Alert rules, with what they raised in a period."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

_RULES = text("""
SELECT r.id, r.subject, r.meter_code, r.threshold, r.enabled, f.fired_at
FROM alert_rules r LEFT JOIN alert_firings f ON f.organization_id = r.organization_id AND f.rule_id = r.id
  AND f.billing_period_id = :period_id
WHERE r.organization_id = :organization_id ORDER BY r.subject, r.meter_code, r.threshold""")


def rules(session: Session, organization_id: UUID, period_id: UUID) -> Sequence[Row[Any]]:
    """All rules: id, subject, meter_code, threshold, enabled, fired_at."""
    return session.execute(_RULES, {"organization_id": organization_id, "period_id": period_id}).all()
