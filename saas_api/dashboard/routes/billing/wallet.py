"""`/dashboard/billing/wallet` and `/credit-notes`: what the platform owes, and what was taken off invoices."""

from flask import Blueprint, Response

from saas_api.billing.queries.bills.wallet import balances, credit_notes, grants
from saas_api.core import clock
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.render import page
from saas_api.core.render.lists import neighbours, read_filters
from saas_api.dashboard.routes.billing.door import LIMIT, organization_id, zone
from saas_api.dashboard.schemas.billing import ListFilters

bp = Blueprint("wallet", __name__)
KINDS = {
    "promotional": "Promotion",
    "purchased": "Prepaid",
    "credit_note": "Credit note",
    "overpayment": "Overpayment",
    "carry": "Carried over",
}
REASONS = {
    "apply": "Used on an invoice",
    "unapply": "Given back by an invoice",
    "expire": "Expired",
    "void": "Withdrawn",
}


@bp.get("/billing/wallet")
@require("billing:read")
def index() -> Response:
    """Show what the wallet holds, and each credit with what became of it."""
    query, form = read_filters(ListFilters())
    found = None if form.errors else grants(session(), organization_id(), {**query, "limit": LIMIT})
    return page(
        "dashboard/billing/wallet.html",
        status=422 if form.errors else 200,
        form=form,
        grants=found.items if found else (),
        balances=sorted(balances(session(), organization_id(), clock.now()).items()),
        kinds=KINDS,
        reasons=REASONS,
        zone=zone(),
        **neighbours(found.next_cursor if found else None),
    )


@bp.get("/billing/credit-notes")
@require("billing:read")
def notes() -> Response:
    """List the credit notes, newest first."""
    query, form = read_filters(ListFilters())
    found = None if form.errors else credit_notes(session(), organization_id(), {**query, "limit": LIMIT})
    return page(
        "dashboard/billing/credit_notes.html",
        status=422 if form.errors else 200,
        form=form,
        notes=found.items if found else (),
        zone=zone(),
        **neighbours(found.next_cursor if found else None),
    )
