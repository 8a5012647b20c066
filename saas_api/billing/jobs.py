"""Schedule entry points of billing."""

from contextlib import suppress
from datetime import timedelta

from saas_api.billing import service as billing
from saas_api.core import clock
from saas_api.core.timetable import DAY, HOUR, MINUTE, scheduled


@scheduled(
    "billing.close",
    every=HOUR,
    offset=5 * MINUTE,
    description="Close and invoice billing periods that have ended.",
)
def close() -> None:
    """Expire grants, open missing periods, and close what has ended.

    raises: RuntimeError when an organization could not be finished, so that the run counts as failed
    """
    now = clock.now()
    billing.expire_grants(now)
    billing.keep_accounts(now)
    outcome = billing.close_due(now)
    if outcome.failed:
        raise RuntimeError(f"{len(outcome.failed)} organizations were not closed; see the log")


@scheduled(
    "billing.alerts",
    every=MINUTE,
    after="usage.roll_up",
    description="Send alerts whose threshold is reached, and correct the counters of the spend cap.",
)
def alerts() -> None:
    """Evaluate alert rules.

    raises: RuntimeError when an organization failed, so that the run counts as failed
    """
    billing.watch(clock.now())


@scheduled(
    "billing.invariants",
    every=DAY,
    offset=3 * HOUR + 30 * MINUTE,
    description="Check the invoices, wallets and periods of the last hundred days.",
)
def invariants() -> None:
    with suppress(billing.AlreadyChecking):  # a run that takes long is not joined by a second one
        billing.check_invariants(since=clock.now() - timedelta(days=100))
