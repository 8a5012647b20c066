"""Dunning, inbox, reconcile."""

from saas_api.core import clock
from saas_api.core.jobs import outbox
from saas_api.core.jobs.schedule import MINUTE, scheduled
from saas_api.payments import dunning, provider_events, reconciliation, refunds
from saas_api.payments.provider_events import INBOX_JOB


@scheduled(
    INBOX_JOB,
    every=MINUTE,
    description="Process events of payment providers, including those that no wake-up announced.",
)
def process_inbox() -> None:
    outbox.drain_queue(INBOX_JOB, provider_events.list_due, provider_events.process_batch)


@scheduled(
    "payments.janitor",
    every=5 * MINUTE,
    description="Ask providers about payments of unknown outcome, and send due refunds.",
)
def reconcile() -> None:
    """Reconcile payments and send refunds.

    raises: RuntimeError when a payment failed, so that the run counts as failed
    """
    rounds = reconciliation.reconcile_pending(clock.now())
    refunds.process_due_refunds()
    if rounds.failed:
        raise RuntimeError(f"{len(rounds.failed)} payments were not looked after; see the log")


@scheduled(
    "payments.dunning",
    every=MINUTE,
    after=INBOX_JOB,
    description="Take due dunning steps of unpaid invoices, and end the dunning of paid ones.",
)
def run_dunning() -> None:
    """Run dunning.

    raises: RuntimeError when an invoice could not be finished, so that the run counts as failed
    """
    outcome = dunning.run_dunning(clock.now())
    if outcome.failed:
        raise RuntimeError(f"{len(outcome.failed)} invoices were not pursued; see the log")
