"""Tables with twenty thousand rows, so that PostgreSQL's planner chooses as it does for large ones."""

from typing import Any
from uuid import UUID

from tests.support.ledger import USAGE_COLUMNS, append_sql

ROWS = 20_000
_EVENTS = append_sql(
    f"{USAGE_COLUMNS}, recorded_at, recorded_xid",
    """SELECT organization_id, 'import', n, 'sms', 1, at, id, at, 3 + n / 100, month
      FROM billing_periods, generate_series(0, 19999) n,
        LATERAL (SELECT starts_at + n * (ends_at - starts_at) / 20000) t (at)
      WHERE organization_id = %s AND seq = %s""",
)


def fill_ledger(superuser: Any, organization_id: UUID, seq: int = 1) -> None:
    """Spread ROWS events of one SMS segment over a period, as recorded when they happened; the first at its start."""
    insert_rows(superuser, "usage_events", _EVENTS, str(organization_id), seq)
    with superuser, superuser.cursor() as cursor:
        cursor.execute("""SELECT brin_summarize_new_values(relid) FROM pg_partition_tree('usage_events_settled')
          WHERE isleaf""")


def insert_rows(superuser: Any, table: str, statement: str, *parameters: Any) -> None:
    """Insert rows past triggers and foreign keys, and tell the planner how many there are."""
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        # Otherwise an ANALYZE of autovacuum that began before could replace the figures of the one below.
        cursor.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")
        cursor.execute(statement, parameters)
        cursor.execute("SELECT relkind = 'r' FROM pg_class WHERE oid = %s::regclass", (table,))
        [is_plain] = cursor.fetchone()
        if is_plain:  # an index that rows of other tests have left large would cost more than all rows of the table
            cursor.execute(f"REINDEX TABLE {table}")
        cursor.execute(f"ANALYZE {table}")


def copy_row(superuser: Any, table: str, changes: str, count: int) -> None:
    """Insert copies of a row of a table that has at least one.

    changes: what differs in each, as arguments of jsonb_build_object; `t` is the row, `n` a number from 1 on
    """
    with superuser, superuser.cursor() as cursor:
        cursor.execute(
            """SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute WHERE attrelid = %s::regclass
              AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity = ''""",
            [table],
        )
        [columns] = cursor.fetchone()
    statement = f"""INSERT INTO {table} ({columns})
      SELECT {", ".join(f"r.{column}" for column in columns.split(", "))}
      FROM (SELECT first AS t FROM {table} first LIMIT 1) base, generate_series(1, {count}) n,
        LATERAL jsonb_populate_record(t, jsonb_build_object({changes})) r"""
    insert_rows(superuser, table, statement)
