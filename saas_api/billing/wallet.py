"""The wallet of an organization: credit grants, how invoices use them, return and expiry."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from saas_api.accounts.audit import OperatorContext
from saas_api.billing import periods
from saas_api.billing.models import (
    BillingProfile,
    CreditEntry,
    CreditEntryReason,
    CreditGrant,
    GrantKind,
    Invoice,
)
from saas_api.core import clock, ids, money
from saas_api.core.db import pagination, tenancy
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, ValidationFailed

_PRIORITY_BY_KIND = {GrantKind.PROMOTIONAL: 5}
_DEFAULT_PRIORITY = 10


class GrantExists(Conflict):
    """Credit from this source was granted before."""

    code, message = "GRANT_EXISTS", "A grant with this key exists already."


@dataclass(frozen=True)
class GrantSource:
    """Where a grant comes from.

    key: unique in the organization, so that a source is granted only once
    """

    key: str
    kind: GrantKind


@dataclass(frozen=True)
class GrantView:
    """A grant with its entries, oldest first."""

    grant: CreditGrant
    entries: Sequence[CreditEntry]

    @property
    def currency(self) -> str:
        return self.grant.currency


def wallet_balances(session: Session, organization_id: UUID, at: datetime) -> dict[str, int]:
    """Credit that an invoice finalized at an instant can use, in minor units by currency."""
    rows = session.execute(
        select(CreditGrant.currency, func.sum(CreditGrant.remaining_minor))
        .where(CreditGrant.organization_id == organization_id, CreditGrant.effective_at <= at)
        .where(CreditGrant.expires_at.is_(None) | (CreditGrant.expires_at > at))
        .group_by(CreditGrant.currency)
    )
    return {currency: int(minor) for currency, minor in rows}


def list_grants(session: Session, organization_id: UUID, request: PageRequest) -> Page:
    """A page of `GrantView`, newest first.

    raises: ValidationFailed for a cursor of another list
    """
    statement = select(CreditGrant).where(CreditGrant.organization_id == organization_id)
    page = pagination.paginate(
        session, statement, CreditGrant.created_at.desc(), CreditGrant.id.desc(), request=request
    )
    entries: defaultdict[UUID, list[CreditEntry]] = defaultdict(list)
    for entry in session.scalars(
        select(CreditEntry)
        .where(CreditEntry.organization_id == organization_id)
        .where(CreditEntry.grant_id.in_([grant.id for grant in page.items]))
        .order_by(CreditEntry.at, CreditEntry.id)
    ):
        entries[entry.grant_id].append(entry)
    return replace(page, items=[GrantView(grant, entries[grant.id]) for grant in page.items])


def grant_credit(
    session: SystemSession,
    organization_id: UUID,
    source: GrantSource,
    amount_minor: int,
    operator: OperatorContext,
    *,
    expires_at: datetime | None = None,
) -> UUID:
    """Grant an organization credit for its next invoices, in the currency it is billed in.

    amount_minor: > 0
    raises: OrganizationNotFound, ValidationFailed, GrantExists
    """
    if amount_minor <= 0:
        raise ValidationFailed.at_field("amount", "Must be above zero.")
    if expires_at and expires_at <= clock.now():
        raise ValidationFailed.at_field("expires_at", "Must be in the future.")
    periods.ensure_account(session, organization_id)
    currency = session.get_one(BillingProfile, organization_id).currency
    grant_id = add_grant(session, organization_id, source, amount_minor, currency, expires_at=expires_at)
    if grant_id is None:
        raise GrantExists
    data = {"kind": source.kind, "amount": money.format_minor(amount_minor, currency), "currency": currency}
    operator.record(session, organization_id, "credit_grant.created", ("credit_grant", grant_id), data)
    return grant_id


def add_grant(
    session: SystemSession,
    organization_id: UUID,
    source: GrantSource,
    amount_minor: int,
    currency: str,
    *,
    expires_at: datetime | None = None,
) -> UUID | None:
    """Add credit to the wallet.

    amount_minor: > 0
    returns: id of the grant; None when the source has been granted before
    """
    values = {
        "organization_id": organization_id,
        "id": ids.new_id(),
        "source_key": source.key,
        "kind": source.kind,
        "currency": currency,
        "amount_minor": amount_minor,
        "remaining_minor": amount_minor,
        "priority": _PRIORITY_BY_KIND.get(GrantKind(source.kind), _DEFAULT_PRIORITY),
        "effective_at": clock.now(),
        "expires_at": expires_at,
    }
    statement = (
        insert(CreditGrant).values(values).on_conflict_do_nothing(index_elements=["organization_id", "source_key"])
    )
    return session.scalar(statement.returning(CreditGrant.id))


def apply_credits(session: SystemSession, invoice: Invoice) -> int:
    """Apply wallet credit to the total of an invoice: by priority, then what expires first, then the oldest.

    returns: applied amount in minor units
    """
    now, due = clock.now(), invoice.total_minor
    for grant in _lock_usable_grants(session, invoice, now) if due else ():
        amount = min(grant.remaining_minor, due)
        if not amount:
            break
        grant.remaining_minor -= amount
        due -= amount
        session.add(
            CreditEntry(
                organization_id=invoice.organization_id,
                id=ids.new_id(),
                grant_id=grant.id,
                invoice_id=invoice.id,
                delta_minor=-amount,
                reason=CreditEntryReason.APPLY,
                at=now,
            )
        )
    return invoice.total_minor - due


def _lock_usable_grants(session: SystemSession, invoice: Invoice, now: datetime) -> list[CreditGrant]:
    statement = (
        select(CreditGrant)
        .where(CreditGrant.organization_id == invoice.organization_id, CreditGrant.currency == invoice.currency)
        .where(CreditGrant.remaining_minor > 0, CreditGrant.effective_at <= now)
        .where(CreditGrant.expires_at.is_(None) | (CreditGrant.expires_at > now))
        .order_by(
            CreditGrant.priority,
            CreditGrant.expires_at.asc().nulls_last(),
            CreditGrant.created_at,
            CreditGrant.id,
        )
        .with_for_update()
    )
    return list(session.scalars(statement))


_RETURN_CREDITS = text("""
WITH taken AS (
  SELECT organization_id, grant_id, -sum(delta_minor) AS minor FROM credit_entries
  WHERE organization_id = :organization_id AND invoice_id = :invoice_id GROUP BY organization_id, grant_id
  HAVING sum(delta_minor) < 0),
entries AS (
  INSERT INTO credit_entries (organization_id, grant_id, invoice_id, delta_minor, reason, at)
  SELECT organization_id, grant_id, :invoice_id, minor, 'unapply', :at FROM taken)
UPDATE credit_grants g SET remaining_minor = g.remaining_minor + t.minor FROM taken t
WHERE g.organization_id = t.organization_id AND g.id = t.grant_id""")


def return_credits(session: SystemSession, invoice: Invoice) -> None:
    """Return the credit that was applied to an invoice to the grants it came from."""
    values = {"organization_id": invoice.organization_id, "invoice_id": invoice.id, "at": clock.now()}
    session.execute(_RETURN_CREDITS, values)


# A grant that a finalization has locked is left to the next run.
_EXPIRE = text("""
WITH ended AS (
  SELECT organization_id, id, remaining_minor FROM credit_grants WHERE remaining_minor > 0 AND expires_at <= :at
  FOR UPDATE SKIP LOCKED),
entries AS (
  INSERT INTO credit_entries (organization_id, grant_id, delta_minor, reason, at)
  SELECT organization_id, id, -remaining_minor, 'expire', :at FROM ended)
UPDATE credit_grants g SET remaining_minor = 0 FROM ended e WHERE g.organization_id = e.organization_id AND g.id = e.id
RETURNING g.id""")


def expire_grants(at: datetime) -> int:
    """Expire what is left of grants that end at or before an instant.

    returns: number of grants that had a remainder
    """
    with tenancy.system_session("billing.expiry") as session:
        return len(session.execute(_EXPIRE, {"at": at}).all())
