"""What a billing period pays for, read from the ledger and nothing else."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

IN_FORCE = """JOIN LATERAL (SELECT plan_version_id FROM subscription_segments
    WHERE organization_id = e.organization_id AND starts_at <= e.occurred_at
    ORDER BY seq DESC LIMIT 1) s ON true"""

_OWN = text(f"""
SELECT s.plan_version_id AS version_id, e.meter_code AS meter, sum(e.quantity) AS quantity
FROM usage_events e {IN_FORCE}
WHERE e.organization_id = :organization_id AND e.billing_period_id = :period_id AND e.late_for_period_id IS NULL
GROUP BY 1, 2 ORDER BY 1, 2""")

_LATE = text(f"""
WITH facts AS (
  SELECT e.late_for_period_id AS period_id, s.plan_version_id, e.meter_code, e.quantity, e.billing_period_id
  FROM usage_events e {IN_FORCE}
  WHERE e.organization_id = :organization_id AND e.billing_period_id = :period_id
    AND e.late_for_period_id IS NOT NULL),
asked AS (
  SELECT period_id, plan_version_id, meter_code, sum(quantity) AS quantity FROM facts GROUP BY 1, 2, 3),
billed AS (
  SELECT coalesce(e.late_for_period_id, e.billing_period_id) AS period_id, s.plan_version_id, e.meter_code,
    sum(e.quantity) AS quantity
  FROM usage_events e
  JOIN billing_periods paying ON paying.organization_id = e.organization_id AND paying.id = e.billing_period_id
  {IN_FORCE}
  WHERE e.organization_id = :organization_id
    AND paying.seq < (SELECT seq FROM billing_periods WHERE organization_id = :organization_id AND id = :period_id)
    AND (e.late_for_period_id IN (SELECT period_id FROM asked)
      OR e.late_for_period_id IS NULL AND e.billing_period_id IN (SELECT period_id FROM asked))
  GROUP BY 1, 2, 3)
SELECT p.id AS period_id, p.starts_at, p.ends_at, a.plan_version_id AS version_id, a.meter_code AS meter,
  coalesce(b.quantity, 0) AS billed, a.quantity
FROM asked a JOIN billing_periods p ON p.organization_id = :organization_id AND p.id = a.period_id
LEFT JOIN billed b ON (b.period_id, b.plan_version_id, b.meter_code) = (a.period_id, a.plan_version_id, a.meter_code)
ORDER BY p.seq, 4, 5""")


def quantities(session: Session, organization_id: UUID, period_id: UUID) -> Sequence[RowMapping]:
    """What happened in the period: version_id in force at the time, meter, quantity."""
    return session.execute(_OWN, {"organization_id": organization_id, "period_id": period_id}).mappings().all()


def late_quantities(session: Session, organization_id: UUID, period_id: UUID) -> Sequence[RowMapping]:
    """What happened in closed periods and this one pays for, by closed period, plan version and meter.

    returns: rows with the closed period's id and bounds, and the quantity it has been `billed` for before
    """
    return session.execute(_LATE, {"organization_id": organization_id, "period_id": period_id}).mappings().all()


def request_count(session: Session, organization_id: UUID, period_id: UUID) -> int:
    """Accepted calls that the period pays for; reversals count none."""
    count = text("""SELECT count(*) FROM usage_events WHERE organization_id = :organization_id
      AND billing_period_id = :period_id AND reversal_of IS NULL""")
    return session.execute(count, {"organization_id": organization_id, "period_id": period_id}).scalar_one()
