"""What actions do to the subscription of an organization: close it, set its billing terms, revoke a credit grant."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from marshmallow import fields, validate

from saas_api.accounts import organizations
from saas_api.accounts.audit import OperatorContext
from saas_api.accounts.models import Organization
from saas_api.admin import context
from saas_api.admin.action_types import Action
from saas_api.admin.context import Preview, ReasonForm
from saas_api.admin.organization_actions import ConfirmByNameForm
from saas_api.billing import billing_terms, organization_closing, settlement
from saas_api.billing.billing_terms import MAX_NET_TERMS_DAYS, BillingTerms
from saas_api.billing.models import CreditGrant
from saas_api.billing.organization_closing import ClosedOrganization
from saas_api.core import formatting
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import NotFound
from saas_api.core.fields import QueryInteger

_YES_NO: Mapping[str, bool] = {"yes": True, "no": False}


class BillingTermsForm(ReasonForm):
    """Terms of an organization; what is left out stays."""

    billing_day = QueryInteger(
        minimum=1, maximum=31, load_default=None, metadata={"help": "Day on which future billing periods start."}
    )
    net_terms_days = QueryInteger(
        minimum=0,
        maximum=MAX_NET_TERMS_DAYS,
        load_default=None,
        metadata={"help": "Days from the finalization of an invoice to its due date."},
    )
    review_drafts = fields.String(
        load_default=None,
        validate=validate.OneOf(list(_YES_NO)),
        metadata={"help": "Whether an operator reviews and finalizes each invoice."},
    )


@dataclass(frozen=True)
class GrantDetail:
    """A credit grant, as the action on it shows it."""

    grant: CreditGrant
    organization_name: str


def preview_closing(organization: Organization, _form: Any) -> Preview:
    """What is open before the organization is closed."""
    return Preview(organization_closing.preview_closing(organization.id))


def close(operator: OperatorContext, organization_id: UUID) -> ClosedOrganization:
    """Closes the organization for good.

    raises: as `organization_closing.close_organization`; ValidationFailed for a short reason
    """
    reason = organizations.validate_reason(operator.reason)
    return organization_closing.close_organization(organization_id, operator.actor, reason)


def describe_closing(closed: ClosedOrganization) -> str:
    """The notice after `close`."""
    invoices = [
        f"{item.invoice.number or 'a draft'}, {formatting.format_money(item.invoice.total_minor, item.currency)}"
        for item in closed.invoices
    ]
    return f"{closed.organization.name} closed. Invoices created: {'; '.join(invoices) or 'none'}."


def preview_terms(organization: Organization, _form: Any) -> Preview:
    """The terms in force as values of the form."""
    with context.read_session() as session:
        terms = billing_terms.find_billing_terms(session, organization.id)
    review = next(text for text, value in _YES_NO.items() if value == terms.review_drafts)
    return Preview(
        values={
            "billing_day": terms.billing_day,
            "net_terms_days": terms.net_terms_days,
            "review_drafts": review,
        }
    )


def set_terms(
    operator: OperatorContext,
    organization_id: UUID,
    billing_day: int | None,
    net_terms_days: int | None,
    review_drafts: str | None,
) -> BillingTerms:
    """Changes the billing terms of the organization; None leaves a term as it is.

    raises: as `billing_terms.set_billing_terms`
    """
    organizations.validate_reason(operator.reason)
    with context.write_session() as session:
        return billing_terms.set_billing_terms(
            session,
            organization_id,
            operator,
            billing_day=billing_day,
            net_terms_days=net_terms_days,
            review_drafts=_YES_NO[review_drafts] if review_drafts else None,
        )


def get_grant(session: SystemSession, organization_id: UUID, grant_id: UUID) -> GrantDetail:
    """A credit grant of an organization.

    raises: NotFound
    """
    grant = session.get(CreditGrant, (organization_id, grant_id))
    if grant is None:
        raise NotFound
    return GrantDetail(grant, organizations.get_organization(session, organization_id).name)


ACTIONS: tuple[Action, ...] = (
    Action(
        "close",
        "organization",
        lambda organization: f"Close {organization.name}",
        "Closing is permanent. Its API keys are revoked, the current billing period ends now, and the final invoice is "
        "created and collected as usual. Members can still sign in, view data and pay.",
        "Close organization",
        lambda _, closed: describe_closing(closed),
        close,
        ConfirmByNameForm,
        "danger",
        is_idempotent=True,
        is_confirmed_by_name=True,
        preview=preview_closing,
    ),
    Action(
        "terms",
        "organization",
        lambda organization: f"Edit billing terms of {organization.name}",
        "A new billing day applies after the current period, which doesn't change. The next period ends on the new day "
        "and is prorated. Payment terms apply to invoices finalized from now on.",
        "Save terms",
        "Billing terms saved.",
        set_terms,
        BillingTermsForm,
        preview=preview_terms,
    ),
    Action(
        "revoke",
        "credit_grant",
        lambda detail: f"Revoke credit of {detail.organization_name}",
        "The remaining credit is removed from the wallet. Credit already applied to invoices isn't affected.",
        "Revoke credit",
        lambda _, view: f"{formatting.format_money(-view.entries[-1].delta_minor, view.currency)} credit revoked.",
        context.in_write_session(settlement.revoke_grant),
        button_style="danger",
    ),
)
