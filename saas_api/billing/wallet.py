"""The wallet of an organization: credit grants, how invoices use them, return and expiry."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from saas_api.billing.models import (
    BillingPeriod,
    CreditEntry,
    CreditEntryReason,
    CreditGrant,
    GrantKind,
    Invoice,
)
from saas_api.core import clock, ids
from saas_api.core.db import pagination, tenancy
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.db.tenancy import SystemSession

_PRIORITY_BY_KIND = {GrantKind.PROMOTIONAL: 5}
_DEFAULT_PRIORITY = 10
MAX_REVOCABLE = 50
OPERATOR_KINDS = (GrantKind.PROMOTIONAL, GrantKind.PURCHASED)
"""Kinds of grants that operators make; the others are money of the organization."""


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


_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:organization, 3))")


def lock_wallet(session: Session, organization_id: UUID) -> None:
    """Lock the wallet of an organization, and with it what is due of its invoices, until the transaction ends.

    Take it before the rows of payments, refunds, invoices and grants, so that transactions wait in one order.
    """
    session.execute(_LOCK, {"organization": str(organization_id)})


_TRY_LOCKS = text("""SELECT organization_id FROM unnest(CAST(:organizations AS uuid[])) AS o (organization_id)
  WHERE pg_try_advisory_xact_lock(hashtextextended(CAST(organization_id AS text), 3))""")


def try_lock_wallets(session: SystemSession, organization_ids: Collection[UUID]) -> set[UUID]:
    """As `lock_wallet`, of several organizations without waiting.

    returns: those whose wallets nobody else holds, which are locked now
    """
    return set(session.scalars(_TRY_LOCKS, {"organizations": list(organization_ids)}))


def has_credit(session: Session, organization_id: UUID) -> bool:
    """Whether a grant of the organization has a remainder, expired or not."""
    grants = select(CreditGrant.id).where(
        CreditGrant.organization_id == organization_id, CreditGrant.remaining_minor > 0
    )
    return session.scalar(grants.limit(1)) is not None


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
    return replace(page, items=add_entries(session, organization_id, page.items))


def list_revocable(session: Session, organization_id: UUID) -> Sequence[CreditGrant]:
    """The newest grants of operators with a remainder, at most MAX_REVOCABLE."""
    statement = select(CreditGrant).where(
        CreditGrant.organization_id == organization_id,
        CreditGrant.remaining_minor > 0,
        CreditGrant.kind.in_(OPERATOR_KINDS),
    )
    return session.scalars(statement.order_by(CreditGrant.created_at.desc(), CreditGrant.id).limit(MAX_REVOCABLE)).all()


def add_entries(session: Session, organization_id: UUID, grants: Sequence[CreditGrant]) -> list[GrantView]:
    """The grants of an organization with their entries."""
    entries: defaultdict[UUID, list[CreditEntry]] = defaultdict(list)
    for entry in session.scalars(
        select(CreditEntry)
        .where(CreditEntry.organization_id == organization_id)
        .where(CreditEntry.grant_id.in_([grant.id for grant in grants]))
        .order_by(CreditEntry.at, CreditEntry.id)
    ):
        entries[entry.grant_id].append(entry)
    return [GrantView(grant, entries[grant.id]) for grant in grants]


def add_grant(
    session: SystemSession,
    organization_id: UUID,
    source: GrantSource,
    amount_minor: int,
    currency: str,
    *,
    expires_at: datetime | None = None,
    effective_at: datetime | None = None,
) -> UUID | None:
    """Add credit to the wallet.

    amount_minor: > 0
    effective_at: now without it
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
        "effective_at": effective_at or clock.now(),
        "expires_at": expires_at,
    }
    statement = (
        insert(CreditGrant).values(values).on_conflict_do_nothing(index_elements=["organization_id", "source_key"])
    )
    return session.scalar(statement.returning(CreditGrant.id))


def apply_credits(session: SystemSession, invoice: Invoice) -> int:
    """Take what is due of an invoice from the wallet: by priority, then what expires first, then the oldest.

    The caller holds the lock of the wallet and adds the amount to the invoice.

    returns: taken amount in minor units
    """
    due = left = invoice.amount_due_minor
    for grant in _lock_usable_grants(session, invoice) if due else ():
        amount = min(grant.remaining_minor, left)
        if not amount:
            break
        left -= amount
        take_credit(session, grant, amount, CreditEntryReason.APPLY, invoice_id=invoice.id)
    return due - left


def take_credit(
    session: SystemSession,
    grant: CreditGrant,
    amount_minor: int,
    reason: CreditEntryReason,
    *,
    invoice_id: UUID | None = None,
    reference: str | None = None,
) -> None:
    """Take a part of what is left of a locked grant, with an entry that says why."""
    grant.remaining_minor -= amount_minor
    session.add(
        CreditEntry(
            organization_id=grant.organization_id,
            id=ids.new_id(),
            grant_id=grant.id,
            invoice_id=invoice_id,
            delta_minor=-amount_minor,
            reason=reason,
            reference=reference,
            at=clock.now(),
        )
    )


def list_applied(session: Session, invoice: Invoice) -> list[tuple[CreditGrant, int]]:
    """The grants that paid a part of an invoice, with the amounts in minor units, the first used first."""
    amount = -func.sum(CreditEntry.delta_minor)
    statement = (
        select(CreditGrant, amount)
        .join(
            CreditEntry,
            (CreditEntry.organization_id == CreditGrant.organization_id) & (CreditEntry.grant_id == CreditGrant.id),
        )
        .where(CreditEntry.organization_id == invoice.organization_id, CreditEntry.invoice_id == invoice.id)
        .group_by(CreditGrant.organization_id, CreditGrant.id)
        .having(amount > 0)
        .order_by(func.min(CreditEntry.at), CreditGrant.priority, CreditGrant.id)
    )
    return [(grant, int(minor)) for grant, minor in session.execute(statement)]


def sum_granted(session: Session, organization_id: UUID, source_keys: Collection[str]) -> dict[str, int]:
    """Amounts in minor units of the grants with these source keys, by key."""
    statement = select(CreditGrant.source_key, CreditGrant.amount_minor).where(
        CreditGrant.organization_id == organization_id, CreditGrant.source_key.in_(source_keys)
    )
    return {key: int(minor) for key, minor in session.execute(statement)}


def lock_money(session: SystemSession, organization_id: UUID, currency: str) -> list[CreditGrant]:
    """Lock the grants that can be paid out: all with a remainder but promotional and expired ones, the oldest first."""
    statement = (
        select(CreditGrant)
        .where(CreditGrant.organization_id == organization_id, CreditGrant.currency == currency)
        .where(CreditGrant.remaining_minor > 0, CreditGrant.kind != GrantKind.PROMOTIONAL)
        .where(CreditGrant.expires_at.is_(None) | (CreditGrant.expires_at > clock.now()))
        .order_by(CreditGrant.created_at, CreditGrant.id)
    )
    return list(session.scalars(statement.with_for_update().execution_options(populate_existing=True)))


def is_paid_out(session: SystemSession, organization_id: UUID, reference: str) -> bool:
    """Whether money of the wallet was paid out under a reference."""
    entries = select(CreditEntry.id).where(
        CreditEntry.organization_id == organization_id,
        CreditEntry.reason == CreditEntryReason.PAYOUT,
        CreditEntry.reference == reference,
    )
    return session.scalar(entries.limit(1)) is not None


def take_payout(session: SystemSession, grant: CreditGrant, amount_minor: int, reference: str) -> None:
    """Take money of a locked grant that goes back to the payer."""
    take_credit(session, grant, amount_minor, CreditEntryReason.PAYOUT, reference=reference)


def _lock_usable_grants(session: SystemSession, invoice: Invoice) -> list[CreditGrant]:
    """Grants that can pay an invoice: those that were valid to the end of its period, whenever it is paid."""
    period_end = (
        select(BillingPeriod.ends_at)
        .where(BillingPeriod.organization_id == invoice.organization_id, BillingPeriod.id == invoice.billing_period_id)
        .scalar_subquery()
    )
    now = clock.now()
    statement = (
        select(CreditGrant)
        .where(CreditGrant.organization_id == invoice.organization_id, CreditGrant.currency == invoice.currency)
        .where(CreditGrant.remaining_minor > 0, CreditGrant.effective_at <= now)
        .where(CreditGrant.expires_at.is_(None) | (CreditGrant.expires_at >= func.coalesce(period_end, now)))
        .order_by(
            CreditGrant.priority,
            CreditGrant.expires_at.asc().nulls_last(),
            CreditGrant.created_at,
            CreditGrant.id,
        )
        .with_for_update(of=CreditGrant)
        .execution_options(populate_existing=True)
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


# A grant that a finalization has locked is left to the next run, and one that may pay an invoice not final yet waits.
_EXPIRE = text("""
WITH ended AS (
  SELECT organization_id, id, remaining_minor FROM credit_grants g WHERE remaining_minor > 0 AND expires_at <= :at
    AND NOT EXISTS (SELECT FROM billing_periods p
      WHERE p.organization_id = g.organization_id AND p.ends_at <= g.expires_at
        AND (p.state <> 'invoiced' OR EXISTS (SELECT FROM invoices i WHERE i.organization_id = p.organization_id
          AND i.billing_period_id = p.id AND i.state = 'draft')))
  FOR UPDATE SKIP LOCKED),
entries AS (
  INSERT INTO credit_entries (organization_id, grant_id, delta_minor, reason, at)
  SELECT organization_id, id, -remaining_minor, 'expire', :at FROM ended)
UPDATE credit_grants g SET remaining_minor = 0 FROM ended e WHERE g.organization_id = e.organization_id AND g.id = e.id
RETURNING g.id""")


def expire_grants(at: datetime) -> int:
    """Expire what is left of grants that end at or before an instant, once the periods they may pay are invoiced.

    returns: number of grants that had a remainder
    """
    with tenancy.system_session("billing.expiry") as session:
        return len(session.execute(_EXPIRE, {"at": at}).all())
