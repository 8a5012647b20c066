"""An organization with an unpaid invoice, for tests of dunning."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from saas_api.billing import invoices, period_close, periods, settlement
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.payments import dunning
from tests.support.billing import BillingOrganization, create_organization, day


@dataclass
class DunnedOrganization(BillingOrganization):
    """An organization with one open invoice."""

    invoice_id: UUID
    due_at: datetime

    def after(self, days: int, hours: int = 0) -> datetime:
        """An instant after the due date."""
        return self.due_at + timedelta(days=days, hours=hours)

    def standing(self) -> str:
        return str(self.rows("SELECT standing FROM subscriptions")[0].standing)

    def steps(self) -> list[Any]:
        return self.rows("""SELECT s.* FROM dunning_steps s JOIN dunning_runs r ON r.id = s.run_id
          ORDER BY r.started_at, s.ordinal""")

    def done_actions(self) -> list[str]:
        return [step.action for step in self.steps() if step.state == "done"]

    def run_statuses(self) -> list[str]:
        return [row.state for row in self.rows("SELECT state FROM dunning_runs ORDER BY started_at")]

    def pay(self, amount_minor: int | None = None, key: str = "payment:1", invoice_id: UUID | None = None) -> None:
        """Apply a payment as a settlement does."""
        paid_id = invoice_id or self.invoice_id
        with tenancy.system_session("billing.close") as session:
            due = session.scalar(sa.text("SELECT due_minor FROM invoices WHERE id = :id"), {"id": paid_id})
            settlement.apply_payment(session, self.id, paid_id, amount_minor or due or 1, key)
            settlement.finish(session, self.id, invoices.lock_invoice(session, self.id, paid_id))


def create_dunned_organization(name: str = "Acme", plan: str = "pro@1", messages: int = 0) -> DunnedOrganization:
    """Create an organization whose invoice for April is open since the first of May."""
    organization = create_organization(name, plan=plan)
    if messages:
        organization.use(messages, at=day(5))
    clock.freeze_time(day(1, 2, month=5))
    periods.ensure_accounts(clock.now(), organization.id)
    period_close.close_due(clock.now(), organization.id)
    invoice = organization.invoices()[0]
    return DunnedOrganization(organization.id, invoice.id, invoice.due_at)


def run_dunning_on(organization: DunnedOrganization, *days: int) -> list[str]:
    """Run dunning on days after the due date; returns the actions it took."""
    actions = []
    for day_number in days:
        clock.freeze_time(organization.after(day_number))
        result = dunning.run_dunning(clock.now())
        assert result.failed == []
        actions += [step.action for step in result.done]
    return actions


def mail_templates(organization: BillingOrganization) -> list[str]:
    """Templates of the mails to an organization, the oldest first."""
    with tenancy.system_session("mail.deliver") as session:
        rows = session.execute(
            sa.text(
                "SELECT template FROM mails WHERE organization_id = :id AND template <> 'invoice_ready' ORDER BY id"
            ),
            {"id": organization.id},
        )
        return [row.template for row in rows]
