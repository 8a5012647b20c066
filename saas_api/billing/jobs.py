"""Timed work of billing: accounts, next periods, and what is due to be closed and invoiced, hourly."""

from contextlib import suppress
from datetime import timedelta

from saas_api.billing import service as billing
from saas_api.core import clock


def close() -> None:
    """Close and invoice what is due, until nothing is left.

    raises: RuntimeError when an organization could not be finished, so that the run counts as failed
    """
    now = clock.now()
    billing.expire_grants(now)
    billing.keep_accounts(now)
    outcome = billing.close_due(now)
    if outcome.failed:
        raise RuntimeError(f"{len(outcome.failed)} organizations were not closed; see the log")


def alerts() -> None:
    """Raise the alerts that are due, and set the gate's counters right; follows each roll-up.

    raises: RuntimeError when that failed for somebody, so that the run counts as failed
    """
    billing.watch(clock.now())


def invariants() -> None:
    """Look at the books of the last hundred days; what is wrong parks its organization and is told to operators."""
    with suppress(billing.AlreadyChecking):  # a run that takes long is not joined by a second one
        billing.check_invariants(since=clock.now() - timedelta(days=100))
