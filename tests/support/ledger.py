"""SQL that appends rows to the usage ledger past the product, each with its key."""

USAGE_COLUMNS = "organization_id, source, idempotency_key, meter_code, quantity, occurred_at, billing_period_id"
"""What every row of usage_events has, but for the month."""


def append_sql(columns: str, rows: str) -> str:
    """An INSERT of ledger rows and of the keys that make each of them count once.

    columns: of usage_events, without month
    rows: a query or VALUES of these columns and the month of the billing period
    """
    return f"""WITH appended AS (INSERT INTO usage_events ({columns}, month) {rows}
      RETURNING organization_id, source, idempotency_key, id, month, quantity)
    INSERT INTO usage_event_keys (organization_id, source, idempotency_key, event_id, month, quantity)
    SELECT * FROM appended"""
