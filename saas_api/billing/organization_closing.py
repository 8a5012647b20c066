"""Closing of an organization: its keys and its subscription end, and the current period becomes the final invoice."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, organizations
from saas_api.accounts.audit import Actor
from saas_api.accounts.models import Organization, OrganizationStatus
from saas_api.accounts.organizations import OrganizationClosed
from saas_api.api_keys import keys
from saas_api.billing import invoices, period_close, periods, subscriptions, wallet
from saas_api.billing.invoices import InvoiceWithPeriod
from saas_api.billing.models import PAYABLE_STATUSES, BillingProfile, Invoice, InvoiceStatus
from saas_api.core import access, clock
from saas_api.core.access import Principal
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import ValidationFailed
from saas_api.core.faults import fault_point
from saas_api.core.roles import ADMIN_ROLES, BILLING_ROLES
from saas_api.mail import mails
from saas_api.webhooks import organization_events


@dataclass(frozen=True)
class ClosingPreview:
    """What is open before an organization is closed.

    final: drafts of the invoices that closing at this moment would write, in order
    unpaid: final invoices with an amount due, by due date
    wallet_minor: credit that the invoices can use; what they leave is paid out by an operator
    is_reviewed: the invoices wait for an operator before they are final
    """

    organization: Organization
    currency: str
    final: Sequence[InvoiceWithPeriod]
    unpaid: Sequence[InvoiceWithPeriod]
    wallet_minor: int
    active_keys: int
    is_reviewed: bool

    @property
    def final_minor(self) -> int:
        """Total of the invoices that closing would write, in minor units."""
        return sum(item.invoice.total_minor for item in self.final)

    @property
    def unpaid_minor(self) -> int:
        """Amount due of earlier invoices in minor units."""
        return sum(item.invoice.amount_due_minor for item in self.unpaid)


@dataclass(frozen=True)
class ClosedOrganization:
    """A closed organization.

    invoices: written by the closing, the final one last; empty if another process wrote them
    """

    organization: Organization
    invoices: Sequence[InvoiceWithPeriod]

    @property
    def issued(self) -> list[InvoiceWithPeriod]:
        """The invoices that are final; others wait for a review."""
        return [item for item in self.invoices if item.invoice.status != InvoiceStatus.DRAFT]


def preview_closing(organization_id: UUID) -> ClosingPreview:
    """What is open before an organization is closed, in transactions of its own.

    raises: OrganizationNotFound, OrganizationClosed
    """
    with tenancy.tenant_session(organization_id) as session:
        organization = organizations.get_organization(session, organization_id)
        if organization.status == OrganizationStatus.CLOSED:
            raise OrganizationClosed
        periods.ensure_account(session, organization_id)
        periods.ensure_period(session, organization_id, clock.now())
    final = period_close.preview_now(organization_id)
    with tenancy.tenant_session(organization_id) as session:
        profile = session.get_one(BillingProfile, organization_id)
        unpaid = select(Invoice).where(Invoice.organization_id == organization_id, Invoice.due_minor > 0)
        unpaid = unpaid.where(Invoice.status.in_(PAYABLE_STATUSES)).order_by(Invoice.due_at, Invoice.id)
        balances = wallet.wallet_balances(session, organization_id, clock.now())
        return ClosingPreview(
            organization,
            profile.currency,
            final,
            [InvoiceWithPeriod(invoice, invoices.get_period(session, invoice)) for invoice in session.scalars(unpaid)],
            balances.get(profile.currency, 0),
            keys.count_active(session, organization_id),
            bool(profile.review_drafts or profile.on_hold_at),
        )


def close_as_owner(session: Session, principal: Principal, name: str) -> ClosedOrganization:
    """Close the caller's organization, in transactions of its own.

    name: of the organization, as a confirmation
    raises: FreshLoginRequired, ValidationFailed for another name, OrganizationClosed
    """
    access.require_fresh_login(principal)
    organization = organizations.get_organization(session, principal.organization_id)
    if name.strip() != organization.name:
        raise ValidationFailed.at_field("name", f"Type the name as it is: {organization.name}")
    return close_organization(organization.id, audit.actor_for(principal))


def close_organization(organization_id: UUID, actor: Actor, reason: str = "") -> ClosedOrganization:
    """Close an organization for good, in transactions of its own: its keys end, and it gets its final invoice.

    Reading and paying go on. If the process dies before the final invoice, the hourly run writes it.

    reason: of an operator, for the audit log
    raises: OrganizationNotFound, OrganizationClosed
    """
    with tenancy.system_session("billing.closing") as session:
        periods.lock_periods(session, organization_id)
        if organizations.get_organization(session, organization_id).status == OrganizationStatus.CLOSED:
            raise OrganizationClosed
        at = clock.now()
        periods.ensure_account(session, organization_id)
        periods.ensure_period(session, organization_id, at)
        keys.revoke_all(session, organization_id, actor, "organization closed")
        subscriptions.end_subscription(session, organization_id, at, actor)
        period_close.end_periods(session, organization_id, at)
        organization = organizations.close(session, organization_id, at, actor, reason)
        closed_by = "owner" if actor.kind == "user" else "operator"
        organization_events.publish(session, organization_id, "organization.closed", closed_by)
        _email_contacts(session, organization)
        fault_point("billing.in_close")
    fault_point("billing.after_close")
    return ClosedOrganization(organization, period_close.invoice_closed_periods(organization_id))


def _email_contacts(session: SystemSession, organization: Organization) -> None:
    contacts = members.list_recipients(
        session, organization.id, ADMIN_ROLES | BILLING_ROLES, includes_billing_email=True
    )
    for contact in contacts:
        context = {"name": contact.name, "organization": organization.name}
        mails.enqueue(session, "organization_closed", contact.email, organization_id=organization.id, **context)
