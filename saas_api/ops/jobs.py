"""Purge of expired rows."""

from typing import Any

from sqlalchemy import TextClause, text

from saas_api.core import idempotency
from saas_api.core.db import tenancy
from saas_api.core.jobs.schedule import DAY, MINUTE, scheduled

PURGE_BATCH_SIZE = 10_000  # a statement has ten seconds
_OLD = {
    "job_runs": "state <> 'running' AND started_at < now() - interval '90 days'",
    "mock_sends": "created_at < now() - interval '7 days'",
    "mails": "finished_at < now() - interval '90 days'",
}


def delete_expired_rows() -> dict[str, int]:
    """Delete idempotency keys that have expired, old runs of jobs, old mails, and what the mock remembers.

    returns: rows by table
    """
    deleted = {"idempotency_keys": idempotency.delete_expired()}
    for table, is_old in _OLD.items():
        deleted[table] = 0
        portion = text(
            f"DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE {is_old} LIMIT :most))"
        )
        while (count := _delete(portion)) > 0:
            deleted[table] += count
    return deleted


def _delete(portion: TextClause) -> int:
    with tenancy.system_session("ops.purge") as session:
        result: Any = session.execute(portion, {"most": PURGE_BATCH_SIZE})
    return int(result.rowcount)


@scheduled(
    "ops.purge",
    every=DAY,
    offset=195 * MINUTE,
    description="Delete expired idempotency keys, old job runs and the mock provider's memory.",
)
def purge() -> dict[str, int]:
    return delete_expired_rows()
