"""Timed work of payments."""

from saas_api.core import clock
from saas_api.core.lease import drain as drain_table
from saas_api.payments import service as payments
from saas_api.payments.service import dunning as pursuits


def dunning() -> None:
    """Plan, take and end what dunning has to, every minute.

    raises: RuntimeError when an invoice could not be finished, so that the run counts as failed
    """
    outcome = pursuits.run(clock.now())
    if outcome.failed:
        raise RuntimeError(f"{len(outcome.failed)} invoices were not pursued; see the log")


def inbox() -> None:
    """Ask the providers about every event that is due."""
    drain_table(payments.INBOX, payments.due, payments.work_off_some)


def janitor() -> None:
    """Ask about payments that are not decided, and send back what credit notes promise.

    raises: RuntimeError when a payment could not be looked after, so that the run counts as failed
    """
    rounds = payments.look_after(clock.now())
    payments.refund_due()
    if rounds.failed:
        raise RuntimeError(f"{len(rounds.failed)} payments were not looked after; see the log")
