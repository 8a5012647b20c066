"""Scheduled jobs of payments: the inbox of provider events, reconciliation with refunds, and dunning."""

from saas_api.core import clock
from saas_api.core.jobs import outbox
from saas_api.core.jobs.schedule import MINUTE, scheduled
from saas_api.payments import automatic, dunning, payment_methods, provider_events, reconciliation, refunds
from saas_api.payments.payments import RECONCILIATION_JOB
from saas_api.payments.provider_events import INBOX_JOB

AUTO_PAY_JOB = "payments.automatic"


@scheduled(
    INBOX_JOB,
    every=MINUTE,
    description="Process events of payment providers, including those that no wake-up announced.",
)
def process_inbox() -> None:
    outbox.drain_queue(INBOX_JOB, provider_events.list_due, provider_events.process_batch)


@scheduled(
    RECONCILIATION_JOB,
    every=5 * MINUTE,
    description="Expire outdated checkout pages, ask providers about undecided payments and methods, send due refunds.",
)
def reconcile() -> None:
    """Reconcile payments and send refunds.

    raises: RuntimeError if a payment could not be reconciled, so that the run counts as failed
    """
    reconciliation.expire_outdated_checkouts(clock.now())
    result = reconciliation.reconcile_pending(clock.now())
    payment_methods.follow_due(clock.now())
    refunds.process_due_refunds()
    if result.failed:
        raise RuntimeError(f"{len(result.failed)} payments could not be reconciled; see the log")


@scheduled(
    AUTO_PAY_JOB,
    every=MINUTE,
    after=INBOX_JOB,
    description="Charge new invoices of organizations that have a default payment method and auto-pay.",
)
def charge_new_invoices() -> None:
    """Charge new invoices.

    raises: RuntimeError if an invoice raised an error, so that the run counts as failed
    """
    result = automatic.charge_new_invoices()
    if result.failed:
        raise RuntimeError(f"auto-pay failed for {result.failed} invoices; see the log")


@scheduled(
    "payments.dunning",
    every=MINUTE,
    after=AUTO_PAY_JOB,
    description="Take due dunning steps of unpaid invoices, and end the dunning of paid ones.",
)
def run_dunning() -> None:
    """Run dunning.

    raises: RuntimeError if dunning of an invoice failed, so that the run counts as failed
    """
    result = dunning.run_dunning(clock.now())
    if result.failed:
        raise RuntimeError(f"dunning failed for {len(result.failed)} invoices; see the log")
