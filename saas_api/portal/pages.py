"""Pages of the portal beside those of the dashboard that it shows: opening a link, its theme and mode, ending it."""

from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, g, request
from marshmallow import fields, validate

from saas_api.core import access
from saas_api.core.access import KeyMode, public_view, require_portal_session
from saas_api.core.fields import StrictSchema
from saas_api.core.web import http, pages, portal_mount
from saas_api.portal import scopes, sessions
from saas_api.portal.sessions import PortalLinkInvalid

bp = Blueprint("customer_portal", __name__)


class PortalPreferencesForm(StrictSchema):
    """Theme or mode, and the page to go back to."""

    theme = fields.String(load_default=None, validate=validate.OneOf(("system", "light", "dark")))
    mode = fields.String(load_default=None, validate=validate.OneOf(list(KeyMode)))
    back = fields.String(
        load_default=portal_mount.ROOT, validate=validate.Regexp(rf"{portal_mount.ROOT}(/[^\s\\?]*)?\Z")
    )


_preferences = PortalPreferencesForm()


@bp.app_context_processor
def template_context() -> dict[str, Any]:
    """Returns the functions that templates of the portal call."""
    return {
        "portal_menu": list_sections,
        "return_host": _return_host,
        "list_path": _list_path,
        "test_notice": _test_notice,
    }


def list_sections() -> list[tuple[str, str, str, bool]]:
    """Title, URL and icon of the sections that this session may open, and whether the page is one of the section."""
    return [
        (title, portal_mount.page_url(endpoint), icon, _is_in_section(endpoint))
        for title, endpoint, icon, permission in scopes.PAGES
        if access.has_permission(g.principal, permission)
    ]


def _is_in_section(endpoint: str) -> bool:
    prefixes = {endpoint.rpartition(".")[0]}
    prefixes |= {"dashboard.invoices"} if endpoint.startswith("dashboard.invoice_list") else set()
    prefixes |= {"dashboard.webhook_deliveries"} if endpoint.startswith("dashboard.webhook_") else set()
    return request.blueprint in prefixes


def _return_host() -> str:
    return urlsplit(g.portal.return_url).hostname or ""


def _list_path() -> str:
    """Path of the section of this page, which a switch of the mode leads to: an object has one mode."""
    return next((href for _, href, _, is_current in list_sections() if is_current), portal_mount.ROOT)


def _test_notice() -> str:
    if request.blueprint in ("dashboard.invoices", "dashboard.invoice_list"):
        return "Invoices have no test mode: they are live."
    return "Nothing here is delivered or billed."


@bp.get("/open")
@public_view
def open_link() -> Any:
    """Exchange a link for the session of this browser, and lead to its first page."""
    if request.method == "HEAD" or "prefetch" in request.headers.get("Sec-Purpose", ""):
        return Response(status=204)  # by a preview or a guess of the browser: the customer has not followed the link
    try:
        g.portal_token, g.portal = sessions.open_link(request.args.get("token", ""))
    except PortalLinkInvalid as error:
        g.portal = error.portal
        portal_mount.allow_embedding(error.portal.origins if error.portal else ())
        return pages.render_page("portal/invalid.html", status=error.status)
    portal_mount.allow_embedding(g.portal.origins)
    return pages.redirect_to("customer_portal.show_home")


@bp.get("")
@require_portal_session()
def show_home() -> Any:
    """Lead to the first section of this session."""
    return pages.redirect_to(list_sections()[0][1])


@bp.post("/preferences")
@require_portal_session()
def set_preference() -> Any:
    """Store theme or mode for this browser, and go back."""
    submitted = {name: request.form[name] for name in _preferences.fields if name in request.form}
    preferences = http.load_schema(_preferences, submitted)
    g.changed_preferences = {name: preferences[name] for name in ("theme", "mode") if preferences[name]}
    return pages.redirect_to(preferences["back"])


@bp.post("/end")
@require_portal_session()
def end_session() -> Response:
    """End this session."""
    sessions.end_session(g.portal)
    g.portal_token = None
    g.pop("principal")
    return pages.render_page("portal/ended.html")
