"""Partitions of large tables by month: which there are, and those of the next months made ahead.

A row whose month has no partition goes to the default partition of its table, so no write is ever refused for want of
one; the next run of `prepare` moves it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import text

from saas_api.core.db.tenancy import SystemSession

MONTHS_AHEAD = 2
MAX_COUNTED_ROWS = 100_000

# A partition is named after its table and month, as `create_partition` of the database does.
_PARTITIONS = text("""
SELECT parent.relname AS table_name, part.relname AS name,
  to_date(substring(part.relname FROM '_y([0-9]{4}m[0-9]{2})$'), 'YYYY"m"MM') AS month,
  greatest(part.reltuples, 0)::bigint AS rows, pg_total_relation_size(part.oid) AS bytes, NULL AS archived_at
FROM pg_inherits i JOIN pg_class parent ON parent.oid = i.inhparent AND parent.relkind = 'p'
JOIN pg_class part ON part.oid = i.inhrelid
WHERE parent.relnamespace = to_regnamespace(current_schema())
UNION ALL
SELECT table_name, NULL, month, row_count, 0, archived_at FROM archived_partitions
ORDER BY table_name, month NULLS LAST""")
_KEYS = text("""
SELECT p.partrelid::regclass::text AS table_name, a.attname AS key
FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0] ORDER BY 1""")
_STRAY_MONTHS = """
SELECT DISTINCT date_trunc('month', {key}::timestamp)::date AS month FROM {table}_default
EXCEPT SELECT month FROM archived_partitions WHERE table_name = '{table}'"""
_CREATE = text("SELECT create_partition(:table, :month)")


@dataclass(frozen=True)
class Partition:
    """A partition, or one that is archived.

    name: of the partition; None when it is archived
    month: its first day; None for the default partition
    rows: as PostgreSQL estimates, or as archived
    archived_at: None when its rows are here
    """

    table_name: str
    name: str | None
    month: date | None
    rows: int
    bytes: int
    archived_at: datetime | None


def list_partitions(session: SystemSession) -> list[Partition]:
    """All partitions and archived ones, by table and month; the default partition is the last of its table."""
    return [Partition(*row) for row in session.execute(_PARTITIONS)]


def count_stray_rows(session: SystemSession) -> dict[str, int]:
    """Rows of default partitions by table, up to MAX_COUNTED_ROWS."""
    return {
        table: session.scalar(
            text(f"SELECT count(*) FROM (SELECT FROM {table}_default LIMIT {MAX_COUNTED_ROWS}) stray")
        )
        or 0
        for table, _ in session.execute(_KEYS)
    }


def count_months_ahead(session: SystemSession, today: date) -> dict[str, int]:
    """For how many months after the present one each table has a partition."""
    months = {table: 0 for table, _ in session.execute(_KEYS)}
    for partition in list_partitions(session):
        if partition.name and partition.month and partition.month > today:
            months[partition.table_name] += 1
    return months


def prepare(session: SystemSession, today: date) -> int:
    """Create the missing partitions of this month and the next, and of rows in default partitions, which it moves.

    Rows of archived months stay in the default partition, so that the archive can be restored.
    returns: number of created partitions
    """
    created = 0
    for table, key in session.execute(_KEYS).all():
        stray = session.scalars(text(_STRAY_MONTHS.format(table=table, key=key))).all()
        for month in sorted({*_months_from(today), *stray}):
            created += bool(session.scalar(_CREATE, {"table": table, "month": month}))
    return created


def analyze(session: SystemSession) -> None:
    """Refresh the statistics of partitioned tables, which autovacuum leaves alone; joins are planned by them."""
    session.execute(text("SELECT analyze_partitioned_tables()"))


def _months_from(today: date) -> Sequence[date]:
    first = today.year * 12 + today.month - 1
    return [date(number // 12, number % 12 + 1, 1) for number in range(first, first + MONTHS_AHEAD + 1)]
