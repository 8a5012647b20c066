"""The currency of an organization: that of its first paid plan or an operator's choice, fixed by its first charge."""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.billing import wallet
from saas_api.billing.models import BillingPeriod
from saas_api.core import clock
from saas_api.core.errors import Conflict


class CurrencyFixed(Conflict):
    """The organization has an invoice, wallet money or a running bill in another currency; the message says which."""

    code, message = "CURRENCY_FIXED", "The currency of this organization can no longer change."


# Invoices of 0.00 and promotional credit are nothing that an organization has paid or owes.
_OBSTACLES = text("""
SELECT b.currency,
  EXISTS (SELECT FROM invoices i WHERE i.organization_id = b.organization_id AND i.total_minor > 0) AS is_invoiced,
  EXISTS (SELECT FROM credit_grants g WHERE g.organization_id = b.organization_id AND g.remaining_minor > 0
    AND g.kind <> 'promotional') AS has_money,
  EXISTS (SELECT FROM billing_periods p WHERE p.organization_id = b.organization_id AND p.seq < :seq
    AND p.state <> 'invoiced') AS has_uninvoiced_period,
  EXISTS (SELECT FROM subscription_segments s JOIN plan_versions v ON v.id = s.plan_version_id
    WHERE s.organization_id = b.organization_id AND s.starts_at <= :at AND coalesce(s.ends_at > :starts_at, true)
    AND (v.base_amount_minor > 0 OR v.min_spend_minor > 0)) AS is_paying
FROM billing_profiles b WHERE b.organization_id = :organization_id""")


def check_changeable(session: Session, organization_id: UUID, period: BillingPeriod, *, is_member: bool) -> None:
    """Check that the currency of an organization can change, and lock its wallet until the transaction ends.

    period, is_member: as of `find_obstacle`
    raises: CurrencyFixed
    """
    obstacle = find_obstacle(session, organization_id, period, is_member=is_member)
    if obstacle is None:
        # An invoice becomes final, and money is granted, under this lock; what it waited for is read again.
        wallet.lock_wallet(session, organization_id)
        obstacle = find_obstacle(session, organization_id, period, is_member=is_member)
    if obstacle:
        raise CurrencyFixed(obstacle)


def find_obstacle(
    session: Session, organization_id: UUID, period: BillingPeriod, *, is_member: bool = True
) -> str | None:
    """Why the currency of an organization cannot change, as a sentence; None if it can.

    period: the current one; the change is for the whole of it
    is_member: a member chooses; only an operator changes the currency of a paid plan before its first invoice
    """
    values = {"organization_id": organization_id, "seq": period.seq, "starts_at": period.starts_at, "at": clock.now()}
    row = session.execute(_OBSTACLES, values).one()
    if row.is_invoiced:
        return f"This organization has been invoiced in {row.currency}, which is its currency for good."
    if row.has_money:
        return f"The wallet of this organization holds money in {row.currency}."
    if row.has_uninvoiced_period:
        return f"The last period of this organization, in {row.currency}, is not invoiced yet. Try again in an hour."
    if is_member and row.is_paying:
        return f"This organization is on a paid plan in {row.currency}. Until its first invoice, support can change it."
    return None
