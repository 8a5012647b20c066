"""Billing terms that operators agree with an organization: billing day, payment terms, review of drafts."""

from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import select

from saas_api.accounts.audit import OperatorContext
from saas_api.billing import periods
from saas_api.billing.models import BillingProfile, Subscription
from saas_api.core import clock
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import ValidationFailed

DEFAULT_BILLING_DAY, DEFAULT_NET_TERMS_DAYS, MAX_NET_TERMS_DAYS = 1, 7, 90


@dataclass(frozen=True)
class BillingTerms:
    """Terms of an organization.

    billing_day: 1 to 31; periods begin at local midnight of this day, or of the last one of a shorter month
    net_terms_days: 0 to 90, from the finalization of an invoice to its due date
    review_drafts: an operator finalizes each invoice
    """

    billing_day: int
    net_terms_days: int
    review_drafts: bool


def find_billing_terms(session: SystemSession, organization_id: UUID) -> BillingTerms:
    """The terms of an organization; the default ones before its account is opened."""
    profile = session.get(BillingProfile, organization_id)
    subscription = session.scalars(
        select(Subscription).where(Subscription.organization_id == organization_id)
    ).one_or_none()
    if profile is None or subscription is None:
        return BillingTerms(DEFAULT_BILLING_DAY, DEFAULT_NET_TERMS_DAYS, review_drafts=False)
    return BillingTerms(subscription.anchor_day, profile.net_terms_days, profile.review_drafts)


def set_billing_terms(
    session: SystemSession,
    organization_id: UUID,
    operator: OperatorContext,
    *,
    billing_day: int | None = None,
    net_terms_days: int | None = None,
    review_drafts: bool | None = None,
) -> BillingTerms:
    """Change the terms of an organization; None leaves a term as it is.

    A period that has begun keeps its bounds; the next one ends on the new billing day. Final invoices keep their due
    date, and drafts that wait for a review go on waiting.

    raises: ValidationFailed for values out of bounds or without a change, OrganizationNotFound
    """
    periods.lock_periods(session, organization_id)
    periods.ensure_account(session, organization_id)
    before = find_billing_terms(session, organization_id)
    given = {"billing_day": billing_day, "net_terms_days": net_terms_days, "review_drafts": review_drafts}
    after = BillingTerms(**{**asdict(before), **{name: value for name, value in given.items() if value is not None}})
    _validate(before, after)
    profile = session.get_one(BillingProfile, organization_id, with_for_update={"key_share": True})
    profile.net_terms_days, profile.review_drafts = after.net_terms_days, after.review_drafts
    if after.billing_day != before.billing_day:
        periods.set_anchor_day(session, organization_id, after.billing_day, clock.now())
    data = {"before": asdict(before), "after": asdict(after)}
    operator.record(session, organization_id, "billing_terms.changed", ("organization", organization_id), data)
    return after


def _validate(before: BillingTerms, after: BillingTerms) -> None:
    if not 1 <= after.billing_day <= 31:
        raise ValidationFailed.at_field("billing_day", "Must be a day from 1 to 31.")
    if not 0 <= after.net_terms_days <= MAX_NET_TERMS_DAYS:
        raise ValidationFailed.at_field("net_terms_days", f"Must be from 0 to {MAX_NET_TERMS_DAYS} days.")
    if after == before:
        raise ValidationFailed.at_field("billing_day", "These terms hold already.")
