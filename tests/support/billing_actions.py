"""Changes invoices of an organization as an operator, and reads the events and audit actions that follow."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import text

from saas_api.accounts.audit import Actor, OperatorContext
from saas_api.billing import credit_notes, invoices, period_close, settlement
from saas_api.billing.credit_notes import CreditNoteInput
from saas_api.billing.settlement import SettlementResult
from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from tests.support.billing import BillingOrganization, create_organization, day

OPERATOR = OperatorContext(Actor("system", "olga"), "ticket 4711")
MAY, JUNE = day(1, 2, month=5), day(1, 2, month=6)


@contextmanager
def system_session() -> Iterator[SystemSession]:
    """A system session."""
    with tenancy.system_session("admin.act") as session:
        yield session


def close_periods(organization: BillingOrganization, at: Any = MAY) -> Any:
    """Close due periods and return the newest invoice of the organization."""
    clock.freeze_time(at)
    assert not period_close.close_due(at).failed
    return newest_invoice(organization)


def newest_invoice(organization: BillingOrganization) -> Any:
    return organization.rows("SELECT * FROM invoices ORDER BY created_at DESC, id DESC LIMIT 1")[0]


def create_invoice(sms: int = 305, email: int = 0, name: str = "Acme") -> tuple[BillingOrganization, Any]:
    """Create an organization on starter with an invoice for April; 305 segments come to 32.05.

    sms, email: units beyond what starter includes
    """
    organization = create_organization(name, plan="starter@1")
    add_endpoint(organization)
    for meter, included, quantity in (("sms", 5_000, sms), ("email", 50_000, email)):
        if quantity:
            organization.use(included + quantity, meter, at=day(10))
    return organization, close_periods(organization)


def settle_payment(
    organization: BillingOrganization, invoice_id: UUID, captured_minor: int, key: str = "payment:1"
) -> SettlementResult:
    """Apply a payment and store its row, as a settlement does."""
    with system_session() as session:
        settled = settlement.apply_payment(session, organization.id, invoice_id, captured_minor, key)
        values = {
            "org": organization.id,
            "invoice": invoice_id,
            "captured": captured_minor,
            "allocated": settled.allocated_minor,
            "excess": settled.excess_minor,
            "reference": f"{organization.id}:{key}",
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
        if settled.allocated_minor:
            settlement.finish(session, organization.id, invoices.lock_invoice(session, organization.id, invoice_id))
    return settled


def create_credit_note(organization: BillingOrganization, invoice_id: UUID, **content: Any) -> Any:
    with system_session() as session:
        return credit_notes.create_credit_note(
            session, organization.id, invoice_id, CreditNoteInput("billing_error", **content), OPERATOR
        )


def require_review(organization: BillingOrganization) -> None:
    """Let operators review every draft of the organization."""
    with system_session() as session:
        session.execute(
            text("UPDATE billing_profiles SET review_drafts = true WHERE organization_id = :id"),
            {"id": organization.id},
        )


def add_endpoint(organization: BillingOrganization) -> None:
    """Create a webhook endpoint, without which no events are stored."""
    with system_session() as session:
        session.execute(
            text("INSERT INTO webhook_endpoints (organization_id, url) VALUES (:id, 'https://a.example/h')"),
            {"id": organization.id},
        )


def published_events(organization: BillingOrganization, event_type: str | None = None) -> list[Any]:
    """(type, data) of published events, in order."""
    events = organization.rows("SELECT type, payload FROM events ORDER BY sequence")
    return [(event.type, json.loads(event.payload)["data"]) for event in events if event_type in {None, event.type}]


def audit_actions(organization: BillingOrganization) -> list[str]:
    return [row.action for row in organization.rows("SELECT action FROM audit_events ORDER BY id")]
