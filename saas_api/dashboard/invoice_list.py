"""The invoices of an organization on a page of their own, for the portal, which shows nothing else of billing."""

from flask import Blueprint, Response

from saas_api.billing import invoices
from saas_api.core import clock
from saas_api.core.access import require_portal_session
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.web import forms, pages
from saas_api.core.web.pages import PAGE_SIZE
from saas_api.dashboard import billing, context

bp = Blueprint("invoice_list", __name__)


@bp.get("/billing/invoices")
@require_portal_session("billing:read")
def index() -> Response:
    """List the invoices, newest first."""
    query, form = forms.parse_filters(billing.InvoiceFilters(exclude=("limit", "format")))
    session, organization_id = engine.session(), context.current_organization_id()
    page = None
    if not form.errors:
        page_request = PageRequest(PAGE_SIZE, query["cursor"])
        page = invoices.list_issued(session, organization_id, page_request, status=query["status"], year=query["year"])
    return pages.render_page(
        "dashboard/billing/invoices.html",
        status=422 if form.errors else 200,
        form=form,
        invoices=page.items if page else (),
        totals=invoices.sum_invoices(session, organization_id),
        is_filtered=bool({"status", "year"} & set(form.values)),
        statuses=[("", "Any"), *billing.INVOICE_STATUS_LABELS.items()],
        now=clock.now(),
        zone=context.current_zone(),
        **pages.pagination_links(page.next_cursor if page else None),
    )
