"""An invoice that nobody pays, as the tests of dunning need it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from saas_api.billing import invoices, period_close, periods
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.payments import dunning
from tests.support.billing import BillingOrganization, create_organization, day


@dataclass
class Debtor(BillingOrganization):
    """A company with one open invoice."""

    invoice_id: UUID
    due_at: datetime

    def after(self, days: int, hours: int = 0) -> datetime:
        """An instant after the invoice was due."""
        return self.due_at + timedelta(days=days, hours=hours)

    def standing(self) -> str:
        return str(self.rows("SELECT standing FROM subscriptions")[0].standing)

    def steps(self) -> list[Any]:
        return self.rows("""SELECT s.* FROM dunning_steps s JOIN dunning_runs r ON r.id = s.run_id
          ORDER BY r.started_at, s.ordinal""")

    def done(self) -> list[str]:
        return [step.action for step in self.steps() if step.state == "done"]

    def pursuits(self) -> list[str]:
        return [row.state for row in self.rows("SELECT state FROM dunning_runs ORDER BY started_at")]

    def pay(self, amount_minor: int | None = None, key: str = "payment:1", invoice_id: UUID | None = None) -> None:
        """Book money as a settlement does."""
        paid = invoice_id or self.invoice_id
        with tenancy.system_session("billing.close") as session:
            due = session.scalar(sa.text("SELECT due_minor FROM invoices WHERE id = :id"), {"id": paid})
            invoices.apply_payment(session, self.id, paid, amount_minor or due or 1, key)
            dunning.stop_if_settled(session, self.id, paid)


def debtor(name: str = "Acme", plan: str = "pro@1", messages: int = 0) -> Debtor:
    """A company whose April was invoiced on the first of May."""
    company = create_organization(name, plan=plan)
    if messages:
        company.use(messages, at=day(5))
    clock.freeze_time(day(1, 2, month=5))
    periods.ensure_accounts(clock.now(), company.id)
    period_close.close_due(clock.now(), company.id)
    invoice = company.invoices()[0]
    return Debtor(company.id, invoice.id, invoice.due_at)


def walk(debtor: Debtor, *days: int) -> list[str]:
    """Let the job run on each of those days after the due date; the actions it took."""
    taken = []
    for number in days:
        clock.freeze_time(debtor.after(number))
        outcome = dunning.run_dunning(clock.now())
        assert outcome.failed == []
        taken += [done.action for done in outcome.done]
    return taken


def mails(company: BillingOrganization) -> list[str]:
    """Templates that were written to a company, the oldest first."""
    with tenancy.system_session("mail.deliver") as session:
        rows = session.execute(
            sa.text(
                "SELECT template FROM mails WHERE organization_id = :id AND template <> 'invoice_ready' ORDER BY id"
            ),
            {"id": company.id},
        )
        return [row.template for row in rows]
