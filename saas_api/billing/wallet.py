"""Balances, grants, apply, return, expire."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from saas_api.accounts.audit import OperatorContext
from saas_api.billing import periods
from saas_api.billing.models import BillingProfile, CreditEntry, CreditGrant, Invoice
from saas_api.core import clock, ids, money
from saas_api.core.db import pagination, tenancy
from saas_api.core.db.pagination import Page
from saas_api.core.errors import Conflict, ValidationFailed


@dataclass(frozen=True)
class GrantView:
    """A grant and what became of it."""

    grant: CreditGrant
    entries: Sequence[CreditEntry]


def wallet_balances(session: Session, organization_id: UUID, at: datetime) -> dict[str, int]:
    """What the next invoice may use, in minor units by currency."""
    rows = session.execute(
        select(CreditGrant.currency, func.sum(CreditGrant.remaining_minor))
        .where(CreditGrant.organization_id == organization_id, CreditGrant.effective_at <= at)
        .where(CreditGrant.expires_at.is_(None) | (CreditGrant.expires_at > at))
        .group_by(CreditGrant.currency)
    )
    return {currency: int(minor) for currency, minor in rows}


def list_grants(session: Session, organization_id: UUID, query: dict[str, Any]) -> Page:
    """A page of `Grant`.

    query: limit, cursor
    raises: Invalid for a cursor of another list
    """
    wanted = select(CreditGrant).where(CreditGrant.organization_id == organization_id)
    rows, cursor = paginate_rows(session, wanted, (CreditGrant.created_at, CreditGrant.id), query)
    entries: defaultdict[UUID, list[CreditEntry]] = defaultdict(list)
    for entry in session.scalars(
        select(CreditEntry)
        .where(CreditEntry.organization_id == organization_id, CreditEntry.grant_id.in_([row.id for row in rows]))
        .order_by(CreditEntry.at, CreditEntry.id)
    ):
        entries[entry.grant_id].append(entry)
    return Page([GrantView(row, entries[row.id]) for row in rows], cursor, query["limit"])


def paginate_rows(
    session: Session, wanted: Select[Any], order: tuple[Any, Any], query: dict[str, Any]
) -> tuple[list[Any], str | None]:
    at, key = order
    if query["cursor"]:
        wanted = wanted.where(tuple_(at, key) < position(query["cursor"]))
    rows = list(session.scalars(wanted.order_by(at.desc(), key.desc()).limit(query["limit"] + 1)))
    shown, has_more = rows[: query["limit"]], len(rows) > query["limit"]
    if not has_more:
        return shown, None
    last = shown[-1]
    return shown, pagination.encode_cursor(getattr(last, at.key).isoformat(), str(last.id))


def position(cursor: str) -> tuple[datetime, UUID]:
    """Time and id of the last row of the page before.

    raises: Invalid
    """
    try:
        at, key = pagination.decode_cursor(cursor)
        return datetime.fromisoformat(at), UUID(key)
    except ValueError as cause:
        raise ValidationFailed.at_field("cursor", "Not a cursor of this list.") from cause


GRANT_PRIORITIES = {"promotional": 5}
DEFAULT_PRIORITY = 10

# Every grant is locked in one order; one that a finalization holds is left to the next run.
_EXPIRE = text("""
WITH ended AS (
  SELECT organization_id, id, remaining_minor FROM credit_grants WHERE remaining_minor > 0 AND expires_at <= :at
  FOR UPDATE SKIP LOCKED),
entries AS (
  INSERT INTO credit_entries (organization_id, grant_id, delta_minor, reason, at)
  SELECT organization_id, id, -remaining_minor, 'expire', :at FROM ended)
UPDATE credit_grants g SET remaining_minor = 0 FROM ended e WHERE g.organization_id = e.organization_id AND g.id = e.id
RETURNING g.id""")
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


class GrantExists(Conflict):
    """This source has put its money into the wallet before."""

    code, message = "GRANT_EXISTS", "A grant with this key exists already."


@dataclass(frozen=True)
class GrantSource:
    """Where a grant comes from.

    key: unique in the organization; the same source never pays twice
    kind: "promotional", "purchased", "credit_note", "overpayment" or "carry"
    """

    key: str
    kind: str


def grant_credit(
    session: Session,
    organization_id: UUID,
    source: GrantSource,
    amount_minor: int,
    act: OperatorContext,
    *,
    expires_at: datetime | None = None,
) -> UUID:
    """Give an organization money that its next invoices use up, in the currency it is billed in.

    session: of the system
    amount_minor: > 0
    raises: NoSuchOrganization, Invalid, GrantExists
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
    act.record(session, organization_id, "credit_grant.created", ("credit_grant", grant_id), data)
    return grant_id


def add_grant(
    session: Session,
    organization_id: UUID,
    source: GrantSource,
    amount_minor: int,
    currency: str,
    *,
    expires_at: datetime | None = None,
) -> UUID | None:
    """Put money into the wallet.

    amount_minor: > 0
    returns: the grant's id; None when this source has paid already
    """
    values = {
        "organization_id": organization_id,
        "id": ids.new_id(),
        "source_key": source.key,
        "kind": source.kind,
        "currency": currency,
        "amount_minor": amount_minor,
        "remaining_minor": amount_minor,
        "priority": GRANT_PRIORITIES.get(source.kind, DEFAULT_PRIORITY),
        "effective_at": clock.now(),
        "expires_at": expires_at,
    }
    statement = (
        insert(CreditGrant).values(values).on_conflict_do_nothing(index_elements=["organization_id", "source_key"])
    )
    return session.scalar(statement.returning(CreditGrant.id))


def apply_credits(session: Session, invoice: Invoice) -> int:
    """Pay what the wallet covers of an invoice's total, in the order in which grants are used up.

    returns: how much that is, in minor units
    """
    now, due = clock.now(), invoice.total_minor
    for found in _usable_grants(session, invoice, now) if due else ():
        taken = min(found.remaining_minor, due)
        if not taken:
            break
        found.remaining_minor -= taken
        due -= taken
        session.add(
            CreditEntry(
                organization_id=invoice.organization_id,
                id=ids.new_id(),
                grant_id=found.id,
                invoice_id=invoice.id,
                delta_minor=-taken,
                reason="apply",
                at=now,
            )
        )
    return invoice.total_minor - due


def _usable_grants(session: Session, invoice: Invoice, now: datetime) -> list[CreditGrant]:
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


def return_credits(session: Session, invoice: Invoice) -> None:
    """Return to every grant what this invoice took of it."""
    values = {"organization_id": invoice.organization_id, "invoice_id": invoice.id, "at": clock.now()}
    session.execute(_RETURN_CREDITS, values)


def expire_grants(at: datetime) -> int:
    """Take out of every wallet what has expired by an instant, and say so by an entry.

    returns: how many grants had something left
    """
    with tenancy.system_session("billing.expiry") as session:
        return len(session.execute(_EXPIRE, {"at": at}).all())
