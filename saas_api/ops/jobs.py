"""The jobs that delete expired rows, make partitions ahead, and keep the history of the status page."""

from typing import Any

from sqlalchemy import TextClause, text

from saas_api.core import clock, idempotency
from saas_api.core.db import partitions, tenancy
from saas_api.core.jobs.schedule import DAY, MINUTE, scheduled
from saas_api.ops import status

PURGE_BATCH_SIZE = 10_000  # a statement is canceled after ten seconds
_EXPIRED_ROWS = {
    "job_runs": "state <> 'running' AND started_at < now() - interval '90 days'",
    "mock_sends": "created_at < now() - interval '7 days'",
    "service_calls": "bucket_at < now() - interval '90 days'",
    "mails": "finished_at < now() - interval '90 days'",
    "portal_sessions": "created_at < now() - interval '30 days'",
    "request_log": "at < now() - interval '30 days'",
    "status_days": "day < current_date - 90",
}


def delete_expired_rows() -> dict[str, int]:
    """Delete expired idempotency keys, and old rows of the tables in _EXPIRED_ROWS.

    returns: number of deleted rows by table
    """
    deleted = {"idempotency_keys": idempotency.delete_expired()}
    for table, condition in _EXPIRED_ROWS.items():
        deleted[table] = 0
        statement = text(
            f"DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE {condition} LIMIT :limit))"
        )
        while (count := _delete_batch(statement)) > 0:
            deleted[table] += count
    return deleted


def _delete_batch(statement: TextClause) -> int:
    with tenancy.system_session("ops.purge") as session:
        result: Any = session.execute(statement, {"limit": PURGE_BATCH_SIZE})
    return int(result.rowcount)


@scheduled(
    "ops.purge",
    every=DAY,
    offset=195 * MINUTE,
    description="Delete expired idempotency keys, old job runs and logged requests, and the mock provider's memory.",
)
def purge() -> dict[str, int]:
    return delete_expired_rows()


@scheduled("ops.status", every=MINUTE, description="Record in which state each component is, for the status page.")
def record_status() -> dict[str, int]:
    return status.record_minute()


@scheduled(
    "ops.partitions",
    every=DAY,
    offset=45 * MINUTE,
    description="Make the partitions of the next two months, and refresh the statistics of partitioned tables.",
)
def prepare_partitions() -> dict[str, int]:
    with tenancy.system_session("ops.partitions") as session:
        created = partitions.prepare(session, clock.now().date())
    with tenancy.system_session("ops.partitions") as session:
        tenancy.allow_long_statements(session)
        partitions.analyze(session)
    return {"created": created}
