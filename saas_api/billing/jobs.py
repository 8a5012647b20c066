"""Timed work of billing: accounts, next periods, and what is due to be closed and invoiced, hourly."""

from saas_api.billing import service as billing
from saas_api.core import clock


def close() -> None:
    """Close and invoice what is due, until nothing is left.

    raises: RuntimeError when an organization could not be finished, so that the run counts as failed
    """
    now = clock.now()
    billing.keep_accounts(now)
    outcome = billing.close_due(now)
    if outcome.failed:
        raise RuntimeError(f"{len(outcome.failed)} organizations were not closed; see the log")
