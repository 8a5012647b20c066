"""`/dashboard/billing`: the plan, the running period as it grows, the cap, the wallet, and the invoices."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from flask import Blueprint, Response, url_for

from saas_api.billing.queries import invoices
from saas_api.billing.queries.bills.wallet import balances
from saas_api.billing.queries.invoices import Billed
from saas_api.billing.rules.explaining import number
from saas_api.core import clock
from saas_api.core.access import require
from saas_api.core.clock import rfc3339
from saas_api.core.db import session
from saas_api.core.errors import Invalid
from saas_api.core.ids import wire_id
from saas_api.core.money import minor_to_text
from saas_api.core.render import csv_response, page
from saas_api.core.render.lists import neighbours, read_filters
from saas_api.core.render.pages import is_fragment
from saas_api.dashboard.queries.billing import running as reads
from saas_api.dashboard.routes.billing.door import LIMIT, MOST_ROWS, account, organization_id, zone
from saas_api.dashboard.schemas.billing import STATES, InvoiceFilters

bp = Blueprint("overview", __name__)
FIRST_YEAR = 2020
COLUMNS = (
    *("id", "number", "status", "period_starts_at", "period_ends_at", "timezone", "total_requests", "total_amount"),
    *("amount_due", "currency", "due_date", "paid_at"),
)
STATUSES = {"open": "Open", "paid": "Paid", "void": "Void", "uncollectible": "Written off"}


@bp.get("/billing")
@require("billing:read")
def index() -> Response:
    """Show where things stand; the running period looks again by itself."""
    query, form = read_filters(InvoiceFilters())
    if not form.errors and query["format"] == "csv":
        return _table(query)
    running = reads.read(session(), account(), clock.now())
    shown: dict[str, Any] = {"running": running, "period": running.account.period, "now": clock.now(), "amount": number}
    if not is_fragment():
        shown |= _money(query, running) | {
            "form": form,
            "is_filtered": bool({"status", "year"} & set(form.values)),
            "statuses": [("", "Any"), *((state, STATUSES[state]) for state in STATES)],
            "years": [("", "Any"), *((year, year) for year in _years())],
        }
    status = 422 if form.errors else 200
    return page("dashboard/billing/index.html", block="running", status=status, status_names=STATUSES, **shown)


def _money(query: Mapping[str, Any], running: reads.Running) -> dict[str, Any]:
    found = invoices.issued(session(), organization_id(), {**query, "limit": LIMIT}) if query else None
    return {
        "invoices": found.items if found else (),
        "totals": invoices.totals(session(), organization_id()),
        "wallet": sorted(balances(session(), organization_id(), clock.now()).items()),
        "currency": running.version.currency,
        "zone": zone(),
        "table": url_for(
            "dashboard.billing.overview.index",
            **{name: query[name] for name in ("status", "year") if query and query[name]},
            format="csv",
        ),
        **neighbours(found.next_cursor if found else None),
    }


def _years() -> range:
    return range(clock.now().year, FIRST_YEAR - 1, -1)


def _table(query: Mapping[str, Any]) -> Response:
    found = invoices.history(session(), organization_id(), {**query, "cursor": None, "limit": MOST_ROWS})
    if found.next_cursor:
        raise Invalid.at("year", f"More than {MOST_ROWS:,} invoices; choose a year.")
    return csv_response(f"invoices-{clock.now():%Y-%m-%d}.csv", COLUMNS, [_row(billed) for billed in found.items])


def _row(billed: Billed) -> tuple[Any, ...]:
    invoice, period = billed.invoice, billed.period
    due = 0 if invoice.state == "void" else invoice.due_minor or 0
    return (
        *(wire_id("inv", invoice.id), invoice.number, invoice.state),
        *(rfc3339(period.starts_at), rfc3339(period.ends_at), period.timezone, billed.total_requests),
        *(Decimal(minor_to_text(minor, invoice.currency)) for minor in (invoice.total_minor, due)),
        invoice.currency,
        *(at and rfc3339(at) for at in (invoice.due_at, invoice.paid_at)),
    )
