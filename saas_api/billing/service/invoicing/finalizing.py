"""From a draft to an invoice: who is billed and by whom, credits, a number without gaps, a due date, and the telling.

The number is taken last, since the lock of its series holds up every other finalization.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from saas_api.billing.models import BillingProfile, Invoice, InvoiceLine
from saas_api.billing.service.invoicing.telling import tell
from saas_api.billing.service.invoicing.wallet import Source, add_grant, apply_credits
from saas_api.core import clock
from saas_api.core.ids import wire_id
from saas_api.core.money import minor_to_text
from saas_api.core.observe import fault
from saas_api.core.settings import setting
from saas_api.mail import service as mail
from saas_api.organizations import queries as members
from saas_api.organizations import service as organizations
from saas_api.organizations.models import Organization
from saas_api.organizations.service import audit

SERIES = "INV"
READERS = ("owner", "billing")
_NUMBER = text("""INSERT INTO number_series (series, last_value) VALUES (:series, 1)
  ON CONFLICT (series) DO UPDATE SET last_value = number_series.last_value + 1 RETURNING last_value""")


def next_number(session: Session, series: str) -> tuple[int, str]:
    """The next serial of a series and the number made of it; whoever asks holds up all others until it commits."""
    serial = session.execute(_NUMBER, {"series": series}).scalar_one()
    return serial, f"{series}-{serial:06d}"


def finalize_draft(session: Session, invoice: Invoice, profile: BillingProfile) -> None:
    """Make an invoice of a draft: from here on it does not change, and is paid at once when nothing is due.

    invoice: its row is held by the caller
    """
    now = clock.now()
    organization = organizations.get(session, profile.organization_id)
    carried = 0 if invoice.total_minor else _carried(session, invoice)
    if carried:
        add_grant(session, invoice.organization_id, Source(f"carry:{invoice.id}", "carry"), carried, invoice.currency)
    invoice.bill_to, invoice.seller = _bill_to(organization, profile), _seller()
    invoice.credits_applied_minor = apply_credits(session, invoice)
    _number(session, invoice, now + timedelta(days=profile.net_terms_days), now)
    _announce(session, invoice, organization)


def _number(session: Session, invoice: Invoice, due_at: datetime, now: datetime) -> None:
    serial, number = next_number(session, SERIES)  # before the state: asking flushes
    fault("billing.after_number")
    invoice.finalized_at, invoice.due_at = now, due_at
    is_settled = invoice.credits_applied_minor == invoice.total_minor
    invoice.state, invoice.paid_at = ("paid", now) if is_settled else ("open", None)
    invoice.series, invoice.serial, invoice.number = SERIES, serial, number


def _carried(session: Session, invoice: Invoice) -> int:
    total = select(func.coalesce(func.sum(InvoiceLine.amount_minor), 0)).where(
        InvoiceLine.organization_id == invoice.organization_id,
        InvoiceLine.invoice_id == invoice.id,
        InvoiceLine.kind == "carry",
    )
    return int(session.scalar(total) or 0)


def _bill_to(organization: Organization, profile: BillingProfile) -> dict[str, Any]:
    known = {"name": organization.name, "email": organization.billing_email, "tax_id": profile.tax_id}
    return {**{name: value for name, value in known.items() if value}, **profile.bill_to}


def _seller() -> dict[str, Any]:
    known = {
        "name": setting("SELLER_NAME"),
        "address": [line.strip() for line in (setting("SELLER_ADDRESS") or "").split("|") if line.strip()],
        "tax_id": setting("SELLER_TAX_ID"),
    }
    return {name: value for name, value in known.items() if value}


def _announce(session: Session, invoice: Invoice, organization: Organization) -> None:
    tell(session, invoice, "invoice.finalized")
    if invoice.state == "paid":
        tell(session, invoice, "invoice.paid")
    data = {"number": invoice.number, "total": minor_to_text(invoice.total_minor, invoice.currency)}
    target = ("invoice", invoice.id)
    audit.record(session, invoice.organization_id, audit.SYSTEM, "invoice.finalized", target, data)
    if invoice.total_minor:
        _mail(session, invoice, organization)


def _mail(session: Session, invoice: Invoice, organization: Organization) -> None:
    due_minor = invoice.total_minor - invoice.credits_applied_minor
    for reader in members.recipients(session, invoice.organization_id, READERS, is_bill=True):
        mail.send(
            session,
            "invoice_ready",
            reader.email,
            organization_id=invoice.organization_id,
            name=reader.name,
            organization=organization.name,
            number=invoice.number,
            amount=minor_to_text(due_minor, invoice.currency),
            currency=invoice.currency,
            due=f"{invoice.due_at:%d %B %Y}",
            invoice_id=wire_id("inv", invoice.id),
        )
