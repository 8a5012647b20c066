"""What a company is billed and what it pays: month after month, by the product's own acts."""

import functools
from datetime import timedelta
from uuid import UUID

from saas_api.billing import service as billing
from saas_api.cli.demo.cast import Company
from saas_api.cli.demo.stage import Stage, system
from saas_api.core import clock
from saas_api.organizations.service import audit
from saas_api.payments import service as payments
from saas_api.payments.service import dunning
from saas_api.providers import mock_checkout

CLOSED_AFTER, PAID_AFTER = timedelta(hours=2), timedelta(days=2, hours=5)
_WAYS = {"decline_first": ["decline", "pay"], "wrong_first": ["pay_wrong", "pay"], "never": []}
HELPED = "A gift to make up for the delays in the first week."


class Customer:
    """A company as the one who pays.

    invoices: ids, the oldest first
    """

    def __init__(self, stage: Stage, organization_id: UUID, company: Company) -> None:
        self.stage, self.id, self.company = stage, organization_id, company
        self.zone = clock.zone(company.zone)

    def begin(self) -> None:
        """Put the ends of its months on the stage."""
        month = clock.now().astimezone(self.zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        while (month := (month + timedelta(days=32)).replace(day=1)).astimezone(
            clock.now().tzinfo
        ) < self.stage.ends_at:
            self.stage.put_on(month.astimezone(clock.now().tzinfo) + CLOSED_AFTER, self._close)
        if self.company.name == "Acme":
            self.stage.put_on(clock.now() + timedelta(days=12), self._help)

    def _close(self) -> None:
        now = clock.now()
        billing.keep_accounts(now, self.id)
        for invoice in billing.close_due(now, self.id).invoices:
            if invoice.id is not None and invoice.status == "open":
                self._await(invoice.id)

    def _await(self, invoice_id: UUID) -> None:
        """Let an invoice be paid after some days, the newest in the company's own way."""
        paid_at = clock.now() + PAID_AFTER
        is_newest = clock.now() + timedelta(days=31) > self.stage.ends_at
        ways = ["pay"]
        if is_newest:
            ways = _WAYS.get(self.company.pays, ways)
        for number, way in enumerate(ways):
            self.stage.put_on(paid_at + number * timedelta(hours=3), functools.partial(self._pay, invoice_id, way))

    def _pay(self, invoice_id: UUID, way: str) -> None:
        started = payments.initiate(self.id, payments.Wanted(invoice_id, provider="mock"), audit.SYSTEM)
        event = mock_checkout.act(str(started.provider_reference), way)
        if event is None:
            return
        payments.receive("mock", event.body, event.signature)
        while payments.work_off_some("mock"):
            continue

    def _help(self) -> None:
        with system() as session:
            act = billing.Act(audit.Actor("operator", "demo"), HELPED)
            billing.grant(session, self.id, billing.Source("demo:gift", "promotional"), 500, act)


def pursue(stage: Stage) -> None:
    """Put the daily look for unpaid invoices on the stage, and a weekly one for reached thresholds."""
    days = int((stage.ends_at - stage.begins_at) / timedelta(days=1))
    for number in range(1, days + 1):
        at = stage.begins_at + timedelta(days=number)
        stage.put_on(at, lambda: dunning.run(clock.now()))
        if number % 7 == 0 or number == days:
            stage.put_on(at, lambda: billing.watch(clock.now()))
