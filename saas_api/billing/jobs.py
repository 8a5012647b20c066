"""Scheduled jobs of billing."""

from contextlib import suppress
from datetime import timedelta

from saas_api.billing import alerts, catalogue_copies, invariants, period_close, periods, wallet
from saas_api.billing.invariants import CheckInProgress
from saas_api.core import clock
from saas_api.core.db import row_copies
from saas_api.core.jobs import schedule
from saas_api.core.jobs.schedule import DAY, HOUR, MINUTE, scheduled

schedule.sweep(row_copies.once_a_minute(catalogue_copies.copy_catalogue))


@scheduled(
    "billing.close",
    every=HOUR,
    offset=5 * MINUTE,
    description="Close and invoice billing periods that have ended.",
)
def close_periods() -> None:
    now = clock.now()
    wallet.expire_grants(now)
    periods.ensure_accounts(now)
    result = period_close.close_due(now)
    if result.failed:  # the run counts as failed
        raise RuntimeError(f"{len(result.failed)} organizations were not closed; see the log")


@scheduled(
    "billing.alerts",
    every=MINUTE,
    after="usage.roll_up",
    description="Send alerts whose threshold is reached, and correct the counters of the spend cap.",
)
def evaluate_alerts() -> None:
    alerts.evaluate_alerts(clock.now())


@scheduled(
    "billing.invariants",
    every=DAY,
    offset=3 * HOUR + 30 * MINUTE,
    description="Check the invoices, wallets and periods of the last hundred days.",
)
def check_invariants() -> None:
    with suppress(CheckInProgress):  # the run before takes longer than a day
        invariants.check_invariants(since=clock.now() - timedelta(days=100))
