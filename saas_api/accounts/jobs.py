"""Jobs of accounts: publish generations again that Redis may have missed, and delete expired audit events."""

from saas_api.accounts import audit_chain, cell_copies, organizations
from saas_api.core.db import row_copies, tenancy
from saas_api.core.jobs import schedule
from saas_api.core.jobs.schedule import DAY, MINUTE
from saas_api.core.settings import setting

schedule.sweep(row_copies.once_a_minute(cell_copies.refresh_copies))


@schedule.sweep
def publish_generations() -> None:
    organizations.republish_generations()


@schedule.scheduled(
    "accounts.expire_audit_events",
    every=DAY,
    offset=200 * MINUTE,
    description="Delete audit events older than AUDIT_RETENTION_DAYS, if that is set.",
)
def expire_audit_events() -> dict[str, int]:
    keep_days, total = setting("AUDIT_RETENTION_DAYS"), 0
    while keep_days:
        with tenancy.system_session("audit.expire") as session:
            deleted = audit_chain.delete_expired_events(session, keep_days)
        total += deleted
        if not deleted:
            break
    return {"deleted": total}
