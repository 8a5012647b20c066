"""Tables with twenty thousand rows, so that PostgreSQL's planner chooses as it does for large ones."""

from typing import Any
from uuid import UUID

ROWS = 20_000
_EVENTS = """
INSERT INTO usage_events (organization_id, source, idempotency_key, meter_code, quantity, occurred_at,
  billing_period_id, recorded_xid)
SELECT organization_id, 'import', n, 'sms', 1, starts_at + n * (ends_at - starts_at) / 20000, id, 3 + n / 100
FROM billing_periods, generate_series(0, 19999) n WHERE organization_id = %s AND seq = 1"""


def fill_ledger(superuser: Any, organization_id: UUID) -> None:
    """Spread ROWS events of one SMS segment over the first period, as recorded long ago; the first at its start."""
    insert_rows(superuser, "usage_events", _EVENTS, str(organization_id))
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT brin_summarize_new_values('usage_events_settled')")


def insert_rows(superuser: Any, table: str, statement: str, *parameters: Any) -> None:
    """Insert rows past triggers and foreign keys, and tell the planner how many there are."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement, parameters)
        cursor.execute(f"ANALYZE {table}")
