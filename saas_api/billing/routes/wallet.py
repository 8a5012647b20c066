"""`GET /billing/wallet` and `/billing/credit-notes`: what the platform owes, and what was taken off invoices."""

from typing import Any

from flask import Blueprint, g

from saas_api.billing.queries.bills.wallet import Grant, Note, balances, credit_notes, grants
from saas_api.billing.schemas.wallet import CreditNotesOut, WalletOut
from saas_api.core import clock
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.http import PageQuery, endpoint
from saas_api.core.money import minor_to_text

bp = Blueprint("wallet", __name__)


@bp.get("/billing/wallet")
@require("billing:read")
@endpoint(operation_id="get_wallet", tag="billing", query=PageQuery(), returns=WalletOut())
def show_wallet(query: dict[str, Any]) -> dict[str, Any]:
    """Show what the wallet holds, and its grants with what became of them, newest first."""
    organization_id = g.principal.organization_id
    page = grants(session(), organization_id, query)
    held = balances(session(), organization_id, clock.now())
    return {
        "balances": [
            {"amount": minor_to_text(minor, currency), "currency": currency} for currency, minor in sorted(held.items())
        ],
        "grants": [_grant(item) for item in page.items],
        "pagination": page.pagination,
    }


@bp.get("/billing/credit-notes")
@require("billing:read")
@endpoint(operation_id="list_credit_notes", tag="billing", query=PageQuery(), returns=CreditNotesOut())
def list_credit_notes(query: dict[str, Any]) -> dict[str, Any]:
    """List the credit notes, newest first."""
    page = credit_notes(session(), g.principal.organization_id, query)
    return {"credit_notes": [_note(item) for item in page.items], "pagination": page.pagination}


def _grant(item: Grant) -> dict[str, Any]:
    grant = item.grant
    return {
        "id": grant.id,
        "kind": grant.kind,
        "amount": minor_to_text(grant.amount_minor, grant.currency),
        "remaining": minor_to_text(grant.remaining_minor, grant.currency),
        "currency": grant.currency,
        "effective_at": grant.effective_at,
        "expires_at": grant.expires_at,
        "created_at": grant.created_at,
        "entries": [
            {
                "amount": minor_to_text(entry.delta_minor, grant.currency),
                "reason": entry.reason,
                "invoice_id": entry.invoice_id,
                "at": entry.at,
            }
            for entry in item.entries
        ],
    }


def _note(item: Note) -> dict[str, Any]:
    note = item.note
    return {
        "id": note.id,
        "number": note.number,
        "invoice_id": note.invoice_id,
        "invoice_number": item.invoice_number,
        "amount": minor_to_text(note.total_minor, note.currency),
        "to_due": minor_to_text(note.to_due_minor, note.currency),
        "to_wallet": minor_to_text(note.to_wallet_minor, note.currency),
        "to_refund": minor_to_text(note.to_refund_minor, note.currency),
        "currency": note.currency,
        "reason": note.reason,
        "memo": note.memo,
        "issued_at": note.issued_at,
        "lines": [
            {"line_id": line.invoice_line_id, "amount": minor_to_text(line.amount_minor, note.currency)}
            for line in item.lines
        ],
    }
