"""Pages of the billing section: the current bill with the invoices, and credits; both bill and invoices as CSV."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, url_for
from marshmallow import fields, validate

from saas_api.billing import credit_notes, current_period, invoices, period_close, wallet
from saas_api.billing.current_period import CurrentPeriod
from saas_api.billing.invoices import InvoiceListItem
from saas_api.billing.models import CreditEntryReason, GrantKind, InvoiceStatus
from saas_api.billing.schemas import BillingPeriodOut, InvoiceListItemOut, InvoicesQuery
from saas_api.core import clock, time_zones
from saas_api.core.access import require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.errors import ValidationFailed
from saas_api.core.fields import StrictSchema
from saas_api.core.web import forms, pages
from saas_api.core.web.pages import MAX_EXPORT_ROWS, PAGE_SIZE
from saas_api.dashboard import context, current_bill, home, navigation
from saas_api.usage import meters

bp = Blueprint("billing", __name__)

_invoice_schema, _period_schema = InvoiceListItemOut(), BillingPeriodOut()


INVOICE_CSV_COLUMNS = (
    *("id", "number", "status", "period_starts_at", "period_ends_at", "timezone", "total_requests", "total_amount"),
    *("amount_due", "currency", "due_date", "paid_at"),
)
INVOICE_STATUS_LABELS = {
    InvoiceStatus.OPEN: "Open",
    InvoiceStatus.PAID: "Paid",
    InvoiceStatus.VOID: "Void",
    InvoiceStatus.UNCOLLECTIBLE: "Written off",
}
GRANT_KIND_LABELS = {
    GrantKind.PROMOTIONAL: "Promotion",
    GrantKind.PURCHASED: "Prepaid",
    GrantKind.CREDIT_NOTE: "Credit note",
    GrantKind.OVERPAYMENT: "Overpayment",
    GrantKind.CARRY: "Carried over",
}
CREDIT_ENTRY_REASON_LABELS = {
    CreditEntryReason.APPLY: "Applied to an invoice",
    CreditEntryReason.UNAPPLY: "Returned from an invoice",
    CreditEntryReason.EXPIRE: "Expired",
    CreditEntryReason.VOID: "Withdrawn",
    CreditEntryReason.PAYOUT: "Paid out",
}


class InvoiceFilters(InvoicesQuery):
    """Filters of the invoice list."""

    format = fields.String(load_default=None, validate=validate.OneOf(("csv",)))


@bp.get("/billing")
@require_permission("billing:read")
def index() -> Response:
    """Show the current bill, the invoices and the wallet. The page polls the block of the bill."""
    query, form = forms.parse_filters(InvoiceFilters(exclude=("limit",)))
    if not form.errors and query["format"] == "csv":
        return _table(query)
    running, by_code = _read_running(), meters.all_meters(engine.session())
    page_context: dict[str, Any] = {
        "running": running,
        "period": running.account.period,
        "rows": current_bill.list_rows(running, by_code),
        "unpaid": home.list_unpaid_invoices(engine.session(), context.current_organization_id()),
        "invoiced_at": period_close.get_invoicing_time(running.account.period),
        "now": clock.now(),
    }
    if not pages.is_htmx_fragment():
        page_context |= _money(query, running) | {
            "form": form,
            "is_filtered": bool({"status", "year"} & set(form.values)),
            "statuses": [("", "Any"), *INVOICE_STATUS_LABELS.items()],
        }
    status = 422 if form.errors else 200
    return pages.render_page(
        "dashboard/billing/index.html",
        block="running",
        status=status,
        **page_context,
    )


@bp.get("/billing/current-bill.csv")
@require_permission("billing:read")
def download_current_bill() -> Response:
    """Download the lines of the current bill, with what the plan includes."""
    running = _read_running()
    return current_bill.csv_table(running, current_bill.list_rows(running, meters.all_meters(engine.session())))


def _read_running() -> CurrentPeriod:
    return current_period.get_current_period(engine.session(), context.current_account(), clock.now())


def _money(query: Mapping[str, Any], running: CurrentPeriod) -> dict[str, Any]:
    page = (
        invoices.list_issued(
            engine.session(),
            context.current_organization_id(),
            PageRequest(PAGE_SIZE, query["cursor"]),
            status=query["status"],
            year=query["year"],
        )
        if query
        else None
    )
    totals = invoices.sum_invoices(engine.session(), context.current_organization_id())
    return {
        "invoices": page.items if page else (),
        "totals": totals,
        "years": [("", "Any"), *((year, year) for year in _years(totals.first_issued_at))],
        "wallet": sorted(
            wallet.wallet_balances(engine.session(), context.current_organization_id(), clock.now()).items()
        ),
        "currency": running.version.currency,
        "zone": navigation.get_layout().organization.timezone,
        "table": url_for(
            "dashboard.billing.index",
            **{name: query[name] for name in ("status", "year") if query and query[name]},
            format="csv",
        ),
        **pages.pagination_links(page.next_cursor if page else None),
    }


def _years(first_issued_at: datetime | None) -> range:
    """Years in which invoices were issued (UTC), or could have been, the newest first."""
    now = clock.now()
    return range(now.year, (first_issued_at or now).astimezone(UTC).year - 1, -1)


def _table(query: Mapping[str, Any]) -> Response:
    page = invoices.list_invoices(
        engine.session(),
        context.current_organization_id(),
        PageRequest(MAX_EXPORT_ROWS),
        status=query["status"],
        year=query["year"],
    )
    if page.next_cursor:
        raise ValidationFailed.at_field("year", f"More than {MAX_EXPORT_ROWS:,} invoices. Choose a year.")
    today = clock.now().astimezone(time_zones.get_zone(context.current_zone()))
    rows = [csv_row(invoice) for invoice in page.items]
    return pages.csv_response(f"invoices-{today:%Y-%m-%d}.csv", INVOICE_CSV_COLUMNS, rows)


def csv_row(invoice: InvoiceListItem) -> list[Any]:
    """Values of INVOICE_CSV_COLUMNS."""
    period = pages.dump_csv_fields(_period_schema, invoice.period, invoice.timezone)
    data = pages.dump_csv_fields(_invoice_schema, invoice, invoice.timezone)
    row = {**data, **period, "period_starts_at": period["starts_at"], "period_ends_at": period["ends_at"]}
    return [row[column] for column in INVOICE_CSV_COLUMNS]


class CreditsQuery(StrictSchema):
    """Where the two lists of the page begin."""

    cursor = fields.String(load_default=None, validate=validate.Length(max=500))
    notes_cursor = fields.String(load_default=None, validate=validate.Length(max=500))


@bp.get("/billing/credits")
@require_permission("billing:read")
def list_credits() -> Response:
    """Show the balances, each credit grant with its entries, and the credit notes."""
    query, form = forms.parse_filters(CreditsQuery())
    session, organization_id = engine.session(), context.current_organization_id()
    grants = notes = None
    if not form.errors:
        grants = wallet.list_grants(session, organization_id, PageRequest(PAGE_SIZE, query["cursor"]))
        notes = credit_notes.list_credit_notes(session, organization_id, PageRequest(PAGE_SIZE, query["notes_cursor"]))
    return pages.render_page(
        "dashboard/billing/credits.html",
        status=422 if form.errors else 200,
        form=form,
        grants=grants.items if grants else (),
        notes=notes.items if notes else (),
        balances=sorted(wallet.wallet_balances(session, organization_id, clock.now()).items()),
        kinds=GRANT_KIND_LABELS,
        reasons=CREDIT_ENTRY_REASON_LABELS,
        zone=navigation.get_layout().organization.timezone,
        older_notes=_notes_url(notes.next_cursor if notes else None),
        newest_notes=_notes_url("") if query.get("notes_cursor") else "",
        **pages.pagination_links(grants.next_cursor if grants else None),
    )


def _notes_url(cursor: str | None) -> str:
    """The page with the credit notes from a cursor, or with the newest ones; empty for None."""
    return "" if cursor is None else f"{pages.filter_url(notes_cursor=cursor)}#credit-notes"
