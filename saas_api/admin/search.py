"""Search across the platform: an ID opens its page, anything else is looked for in names, addresses and numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, url_for

from saas_api.admin import context, organizations
from saas_api.core import ids
from saas_api.core.access import require_operator
from saas_api.core.db import cells
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.fields import StrictSchema, Text
from saas_api.core.web import forms, pages

bp = Blueprint("search", __name__)

MAX_RESULTS = 8
_ORGANIZATIONS = "SELECT organization_id FROM {table} WHERE id = :id LIMIT 1"
_INVOICE_OF = "SELECT invoice_id FROM {table} WHERE id = :id LIMIT 1"


@dataclass(frozen=True)
class SearchResult:
    """A page that matches.

    kind: such as "Organization"
    note: what tells it from others
    """

    kind: str
    title: str
    note: str
    href: str


@dataclass(frozen=True)
class _IdPage:
    """Where the page of an ID is.

    query: finds what the page is of, where that is not the thing itself
    """

    endpoint: str
    argument: str
    query: str


_PAGES: Mapping[str, _IdPage] = {
    "org": _IdPage("admin.organizations.show", "organization_id", "SELECT id FROM organizations WHERE id = :id"),
    "usr": _IdPage("admin.users.show", "user_id", "SELECT id FROM users WHERE id = :id"),
    "key": _IdPage("admin.organizations.show_key", "key_id", "SELECT id FROM api_keys WHERE id = :id"),
    "inv": _IdPage("admin.invoices.show", "invoice_id", "SELECT id FROM invoices WHERE id = :id"),
    "lin": _IdPage("admin.invoices.show", "invoice_id", _INVOICE_OF.format(table="invoice_lines")),
    "crn": _IdPage("admin.invoices.show", "invoice_id", _INVOICE_OF.format(table="credit_notes")),
    "pay": _IdPage("admin.payments.show", "payment_id", "SELECT id FROM payments WHERE id = :id"),
    "rfd": _IdPage("admin.payments.show", "payment_id", "SELECT payment_id FROM refunds WHERE id = :id"),
    "whe": _IdPage("admin.webhooks.show_endpoint", "endpoint_id", "SELECT id FROM webhook_endpoints WHERE id = :id"),
    "whd": _IdPage("admin.webhooks.show_delivery", "delivery_id", "SELECT id FROM webhook_deliveries WHERE id = :id"),
    "evt": _IdPage(
        "admin.webhooks.show_delivery", "delivery_id", "SELECT id FROM webhook_deliveries WHERE event_id = :id LIMIT 1"
    ),
    "msg": _IdPage("admin.organizations.show", "organization_id", _ORGANIZATIONS.format(table="all_messages")),
    "grt": _IdPage("admin.organizations.show", "organization_id", _ORGANIZATIONS.format(table="credit_grants")),
    "sub": _IdPage("admin.organizations.show", "organization_id", _ORGANIZATIONS.format(table="subscriptions")),
}
_USERS = sa.text("""
SELECT id, email, full_name FROM users
WHERE email ILIKE :pattern OR full_name ILIKE :pattern ORDER BY email LIMIT :most""")
_INVOICES = sa.text("""
SELECT i.id, i.number, o.name FROM invoices i JOIN organizations o ON o.id = i.organization_id
WHERE i.number ILIKE :pattern ORDER BY i.number DESC LIMIT :most""")
_PAYMENTS = sa.text("""
SELECT p.id, p.provider_reference, o.name FROM payments p JOIN organizations o ON o.id = p.organization_id
WHERE p.provider_reference = :text ORDER BY p.created_at DESC LIMIT :most""")
_PLANS = sa.text("""
SELECT v.id, p.name FROM plans p JOIN LATERAL (SELECT id FROM plan_versions v WHERE v.plan_code = p.code
  AND v.state <> 'draft' ORDER BY version DESC LIMIT 1) v ON true
WHERE p.name ILIKE :pattern OR p.code ILIKE :pattern ORDER BY p.position LIMIT :most""")
_METERS = sa.text(
    "SELECT code, name FROM meters WHERE name ILIKE :pattern OR code ILIKE :pattern ORDER BY 1 LIMIT :most"
)
_SERVICES = sa.text("SELECT name FROM services WHERE name ILIKE :pattern AND revoked_at IS NULL ORDER BY 1 LIMIT :most")


class SearchQuery(StrictSchema):
    """What is looked for."""

    q = Text(maximum=200, load_default=None)


def find_page(session: SystemSession, text: str) -> str | None:
    """URL of the page of an ID; of a message, credit or subscription that of its organization. None for others."""
    prefix = text.partition("_")[0]
    if prefix == "req":
        return url_for("admin.requests.index", request_id=text)
    if prefix not in _PAGES or not ids.is_public_id(text, prefix):
        return None
    page = _PAGES[prefix]
    found: UUID | None = session.scalar(sa.text(page.query), {"id": ids.parse_id(prefix, text)})
    arguments: dict[str, Any] = {page.argument: found}
    return url_for(page.endpoint, **arguments) if found else None


def search(session: SystemSession, text: str) -> list[SearchResult]:
    """Pages in the current cell whose name, address or number contains a text, at most MAX_RESULTS of each kind.

    text: also the beginning of an API key
    """
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    values = {"pattern": f"%{escaped}%", "text": text, "most": MAX_RESULTS}
    results = [
        SearchResult(
            "Organization",
            row.name,
            row.status.capitalize(),
            url_for("admin.organizations.show", organization_id=row.id),
        )
        for row in organizations.list_matches(session, text, MAX_RESULTS)
    ]
    for statement, convert in _KINDS_AT_HOME if cells.current() is None else _KINDS:
        results += [convert(row) for row in session.execute(statement, values)]
    return results


def search_cells(text: str) -> tuple[str | None, list[SearchResult], list[str]]:
    """The page of an ID, or pages that contain a text, in all cells.

    returns: URL of the page, or None; results, at most MAX_RESULTS of each kind; names of cells that do not respond
    """

    def read() -> tuple[str | None, list[SearchResult]]:
        with context.read_session() as session:
            href = find_page(session, text)
            return href, [] if href else search(session, text)

    found, missing_cells = cells.collect(read)
    for href, _ in found:
        if href:
            return href, [], missing_cells
    kinds: dict[str, dict[str, SearchResult]] = {}
    for _, results in found:
        for result in results:  # home and a cell have the same organization
            kinds.setdefault(result.kind, {}).setdefault(result.href, result)
    merged = [result for by_href in kinds.values() for result in islice(by_href.values(), MAX_RESULTS)]
    return None, merged, missing_cells


_KINDS: Sequence[tuple[sa.TextClause, Callable[[Any], SearchResult]]] = (
    (
        _INVOICES,
        lambda row: SearchResult("Invoice", row.number, row.name, url_for("admin.invoices.show", invoice_id=row.id)),
    ),
    (
        _PAYMENTS,
        lambda row: SearchResult(
            "Payment", row.provider_reference, row.name, url_for("admin.payments.show", payment_id=row.id)
        ),
    ),
)
_KINDS_AT_HOME = (
    (
        _USERS,
        lambda row: SearchResult("User", row.email, row.full_name or "", url_for("admin.users.show", user_id=row.id)),
    ),
    *_KINDS,
    (_PLANS, lambda row: SearchResult("Plan", row.name, row.id, url_for("admin.plans.show", version_id=row.id))),
    (_METERS, lambda row: SearchResult("Meter", row.name, row.code, url_for("admin.meters.show", meter_code=row.code))),
    (_SERVICES, lambda row: SearchResult("Service", row.name, "", url_for("admin.services.show", name=row.name))),
)


@bp.get("/admin/search")
@require_operator("support")
def index() -> Any:
    """Open the page of an ID, or list what contains a text."""
    query, form = forms.parse_filters(SearchQuery())
    text = (query.get("q") or "").strip()
    href, results, missing_cells = search_cells(text) if text else (None, [], [])
    if href:
        return pages.redirect_to(href)
    return pages.render_page(
        "admin/search.html",
        status=422 if form.errors else 200,
        form=form,
        text=text,
        results=results,
        missing_cells=missing_cells,
    )
