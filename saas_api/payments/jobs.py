"""Queue and schedule entry points of payments."""

from saas_api.core import clock, lease
from saas_api.core.timetable import MINUTE, scheduled
from saas_api.payments import service as payments
from saas_api.payments.service import dunning as pursuits


@scheduled(
    payments.INBOX,
    every=MINUTE,
    description="Process events of payment providers, including those that no wake-up announced.",
)
def inbox() -> None:
    lease.drain(payments.INBOX, payments.due, payments.work_off_some)


@scheduled(
    "payments.janitor",
    every=5 * MINUTE,
    description="Ask providers about payments of unknown outcome, and send due refunds.",
)
def janitor() -> None:
    """Reconcile payments and send refunds.

    raises: RuntimeError when a payment failed, so that the run counts as failed
    """
    rounds = payments.look_after(clock.now())
    payments.refund_due()
    if rounds.failed:
        raise RuntimeError(f"{len(rounds.failed)} payments were not looked after; see the log")


@scheduled(
    "payments.dunning",
    every=MINUTE,
    after=payments.INBOX,
    description="Take due dunning steps of unpaid invoices, and end the dunning of paid ones.",
)
def dunning() -> None:
    """Run dunning.

    raises: RuntimeError when an invoice could not be finished, so that the run counts as failed
    """
    outcome = pursuits.run(clock.now())
    if outcome.failed:
        raise RuntimeError(f"{len(outcome.failed)} invoices were not pursued; see the log")
