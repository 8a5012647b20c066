"""Live quantities: rollups and the tail of the ledger in one statement, so that both are of one snapshot."""

from decimal import Decimal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

NO_KEY = "00000000-0000-0000-0000-000000000000"
COLUMNS = (
    "organization_id, billing_period_id, bucket_at, meter_code, source, api_key_id, is_late, quantity, event_count"
)

# A reversal counts under the source of what it takes back, and counts no event.
LEDGER_COLUMNS = f"""e.organization_id, e.billing_period_id,
  date_trunc('hour', e.occurred_at, o.timezone) AS bucket_at, e.meter_code, coalesce(r.source, e.source) AS source,
  coalesce(e.api_key_id, '{NO_KEY}') AS api_key_id, e.late_for_period_id IS NOT NULL AS is_late,
  e.quantity, (e.reversal_of IS NULL)::int AS event_count"""
OWNERS = """JOIN organizations o ON o.id = e.organization_id
  LEFT JOIN usage_events r ON r.organization_id = e.organization_id AND r.id = e.reversal_of"""

# To be used as WITH live AS (...); takes :organization_id. The tail is read period by period, since the ledger's index
# begins with the period; OFFSET 0 holds the planner to it, which would read every row of the organization instead.
LIVE = f"""SELECT {COLUMNS} FROM usage_rollups WHERE organization_id = :organization_id
  UNION ALL
  SELECT {LEDGER_COLUMNS} FROM usage_watermark w CROSS JOIN billing_periods p CROSS JOIN LATERAL (
    SELECT * FROM usage_events WHERE organization_id = :organization_id AND billing_period_id = p.id
      AND recorded_xid >= w.through_xid AND recorded_at > w.floor_at OFFSET 0) e {OWNERS}
  WHERE p.organization_id = :organization_id"""


def live_quantities(session: Session, organization_id: UUID, period_id: UUID) -> dict[str, Decimal]:
    """Quantity by meter that a billing period owns at this moment, late usage included."""
    rows = session.execute(
        text(f"""WITH live AS ({LIVE})
          SELECT meter_code, sum(quantity) FROM live WHERE billing_period_id = :period_id GROUP BY 1"""),
        {"organization_id": organization_id, "period_id": period_id},
    )
    return dict(rows.all())


def requests_by_period(session: Session, organization_id: UUID) -> dict[UUID, int]:
    """Accepted calls by the billing period that pays for them."""
    rows = session.execute(
        text(f"WITH live AS ({LIVE}) SELECT billing_period_id, sum(event_count) FROM live GROUP BY 1"),
        {"organization_id": organization_id},
    )
    return {period_id: int(count) for period_id, count in rows}
