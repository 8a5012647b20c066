"""The wallet and the credit notes of an organization, newest first."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.orm import Session

from saas_api.billing.models import CreditEntry, CreditGrant, CreditNote, CreditNoteLine, Invoice
from saas_api.core.errors import Invalid
from saas_api.core.http import Page, decode_cursor, encode_cursor


@dataclass(frozen=True)
class Grant:
    """A grant and what became of it."""

    grant: CreditGrant
    entries: Sequence[CreditEntry]


@dataclass(frozen=True)
class Note:
    """A credit note, the number of its invoice, and what it takes off each line."""

    note: CreditNote
    invoice_number: str | None
    lines: Sequence[CreditNoteLine]


def balances(session: Session, organization_id: UUID, at: datetime) -> dict[str, int]:
    """What the next invoice may use, in minor units by currency."""
    rows = session.execute(
        select(CreditGrant.currency, func.sum(CreditGrant.remaining_minor))
        .where(CreditGrant.organization_id == organization_id, CreditGrant.effective_at <= at)
        .where(CreditGrant.expires_at.is_(None) | (CreditGrant.expires_at > at))
        .group_by(CreditGrant.currency)
    )
    return {currency: int(minor) for currency, minor in rows}


def grants(session: Session, organization_id: UUID, query: dict[str, Any]) -> Page:
    """A page of `Grant`.

    query: limit, cursor
    raises: Invalid for a cursor of another list
    """
    wanted = select(CreditGrant).where(CreditGrant.organization_id == organization_id)
    rows, cursor = _page(session, wanted, (CreditGrant.created_at, CreditGrant.id), query)
    entries: defaultdict[UUID, list[CreditEntry]] = defaultdict(list)
    for entry in session.scalars(
        select(CreditEntry)
        .where(CreditEntry.organization_id == organization_id, CreditEntry.grant_id.in_([row.id for row in rows]))
        .order_by(CreditEntry.at, CreditEntry.id)
    ):
        entries[entry.grant_id].append(entry)
    return Page([Grant(row, entries[row.id]) for row in rows], cursor, query["limit"])


def credit_notes(session: Session, organization_id: UUID, query: dict[str, Any]) -> Page:
    """A page of `Note`.

    query: limit, cursor
    raises: Invalid for a cursor of another list
    """
    wanted = select(CreditNote).where(CreditNote.organization_id == organization_id)
    rows, cursor = _page(session, wanted, (CreditNote.issued_at, CreditNote.id), query)
    ids = [row.id for row in rows]
    numbers = dict(
        session.execute(
            select(Invoice.id, Invoice.number)
            .where(Invoice.organization_id == organization_id)
            .where(Invoice.id.in_([row.invoice_id for row in rows]))
        ).all()
    )
    lines: defaultdict[UUID, list[CreditNoteLine]] = defaultdict(list)
    for line in session.scalars(
        select(CreditNoteLine)
        .where(CreditNoteLine.organization_id == organization_id, CreditNoteLine.credit_note_id.in_(ids))
        .order_by(CreditNoteLine.invoice_line_id)
    ):
        lines[line.credit_note_id].append(line)
    return Page([Note(row, numbers.get(row.invoice_id), lines[row.id]) for row in rows], cursor, query["limit"])


def _page(
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
    return shown, encode_cursor(getattr(last, at.key).isoformat(), str(last.id))


def position(cursor: str) -> tuple[datetime, UUID]:
    """Time and id of the last row of the page before.

    raises: Invalid
    """
    try:
        at, key = decode_cursor(cursor)
        return datetime.fromisoformat(at), UUID(key)
    except ValueError as cause:
        raise Invalid.at("cursor", "Not a cursor of this list.") from cause
