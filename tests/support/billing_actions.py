"""Acts on a company's invoices as an operator, and what its webhook endpoint is told of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts.audit import Actor, OperatorContext
from saas_api.billing import credit_notes, invoices, period_close
from saas_api.billing.credit_notes import CreditNoteInput
from saas_api.billing.invoices import SettlementResult
from saas_api.core import clock
from saas_api.core.db import tenancy
from tests.support.billing import Company, day, found

ACT = OperatorContext(Actor("system", "olga"), "ticket 4711")
MAY, JUNE = day(1, 2, month=5), day(1, 2, month=6)


@contextmanager
def system() -> Iterator[Session]:
    """The platform at work."""
    with tenancy.system_session("billing.corrections") as session:
        yield session


def close(company: Company, at: Any = MAY) -> Any:
    """Close what is due, and answer with the company's newest invoice."""
    clock.freeze_time(at)
    assert not period_close.close_due(at).failed
    return newest(company)


def newest(company: Company) -> Any:
    return company.rows("SELECT * FROM invoices ORDER BY created_at DESC, id DESC LIMIT 1")[0]


def invoiced(sms: int = 305, email: int = 0, name: str = "Acme") -> tuple[Company, Any]:
    """A company on starter with an invoice over April; 305 segments make 32.05."""
    company = found(name, plan="starter@1")
    listen(company)
    for meter, quantity in (("sms", sms), ("email", email)):
        if quantity:
            company.use(quantity, meter, at=day(10))
    return company, close(company)


def settle(company: Company, invoice_id: UUID, captured_minor: int, key: str = "payment:1") -> SettlementResult:
    """Book a payment and its row, as a settlement does."""
    with system() as session:
        settled = invoices.apply_payment(session, company.id, invoice_id, captured_minor, key)
        values = {
            "org": company.id,
            "invoice": invoice_id,
            "captured": captured_minor,
            "allocated": settled.allocated_minor,
            "excess": settled.excess_minor,
            "reference": f"{company.id}:{key}",
        }
        [payment_id] = session.scalars(
            text("""INSERT INTO payments (organization_id, invoice_id, provider, provider_reference, initiated_by,
                currency, amount_minor) VALUES (:org, :invoice, 'mock', :reference, 'customer', 'USD', :captured)
                RETURNING id"""),
            values,
        )
        session.execute(
            text("""UPDATE payments SET state = 'succeeded', captured_minor = :captured, allocated_minor = :allocated,
                excess_minor = :excess WHERE id = :id"""),
            {**values, "id": payment_id},
        )
    return settled


def credit(company: Company, invoice_id: UUID, **wanted: Any) -> Any:
    with system() as session:
        return credit_notes.create_credit_note(
            session, company.id, invoice_id, CreditNoteInput("billing_error", **wanted), ACT
        )


def review(company: Company) -> None:
    """Ask for a look at every draft of the company."""
    with system() as session:
        session.execute(
            text("UPDATE billing_profiles SET review_drafts = true WHERE organization_id = :id"), {"id": company.id}
        )


def listen(company: Company) -> None:
    """Give the company an endpoint, so that its events are kept."""
    with system() as session:
        session.execute(
            text("INSERT INTO webhook_endpoints (organization_id, url) VALUES (:id, 'https://a.example/h')"),
            {"id": company.id},
        )


def told(company: Company, kind: str | None = None) -> list[Any]:
    """(type, data) of what the endpoint was told, in order."""
    events = company.rows("SELECT type, payload FROM events ORDER BY sequence")
    return [(event.type, json.loads(event.payload)["data"]) for event in events if kind in {None, event.type}]


def acts(company: Company) -> list[str]:
    return [row.action for row in company.rows("SELECT action FROM audit_events ORDER BY id")]
