"""Renders errors as JSON envelope, page or HTMX fragment, and sends users without a session to the login page."""

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, g, redirect, render_template, request, url_for

from saas_api.core.access import NoOrganization
from saas_api.core.db.engine import db
from saas_api.core.errors import ApiError, EncodedBody
from saas_api.core.observability import get_logger
from saas_api.core.settings import setting
from saas_api.core.web import forms, http, pages, portal_mount
from saas_api.core.web.forms import FormExpired, ModeSwitched

ERROR_HELP = {
    400: "We couldn't read the request. Go back, reload the page and try again.",
    403: "If you need access, ask an owner or admin of your organization.",
    404: "This page does not exist, or you do not have access to it.",
    405: "This page can't be opened directly. Go back and use the form or link.",
    408: "We did not receive the complete request. Check your connection, then try again.",
    409: "This was changed in the meantime. Go back, reload the page and try again.",
    413: "Your input is larger than this page accepts.",
    414: "The URL is too long. Go back and follow the link again.",
    422: "Part of the URL is invalid. Go back and try again.",
    429: "You made too many requests in a short time. Wait a moment, then try again.",
    431: "Your browser sent too much data. Delete the cookies of this site, then try again.",
    500: "We have logged the error. Try again. If it persists, contact support with the request ID.",
    503: "Part of our service is not responding. No data was lost. Try again shortly.",
}
_PORTAL_HELP = {
    403: "This session can show other pages only. To see this one, open the portal again from where you came."
}
_PATHS_OF_PROGRAMS = ("/api/", "/gate")
_PUBLIC_FRAME, _PORTAL_FRAME = "public.html", "portal/_layout.html"

log = get_logger(__name__)


def render_error(error: ApiError) -> Response:
    """A response for an error: JSON for programs, otherwise a page or a fragment."""
    g.error_code = error.code
    if request.path.startswith(_PATHS_OF_PROGRAMS):
        body = {
            "code": error.code,
            "message": error.message,
            "details": error.details,
            "request_id": g.get("request_id"),
            "docs": f"{setting('APP_URL')}{docs_path(error.code)}",
        }
        return http.json_response({"success": False, "error": body}, error.status, _headers(error))
    response = _login_response() if error.status == 401 else _error_page(error)
    if isinstance(error, NoOrganization) and request.method in http.SAFE_METHODS and not pages.is_htmx_fragment():
        response = redirect(g.principal.home_path, 303)  # type: ignore[assignment]  # werkzeug's own class
    response.headers.extend({name: value for name, value in _headers(error).items() if name != "WWW-Authenticate"})
    return response


def docs_path(code: str) -> str:
    """Where the documentation says what an error code means and what to do."""
    return f"/docs/errors/{code}"


def _error_page(error: ApiError) -> Response:
    if isinstance(error, FormExpired):
        return resend_page(
            error.status,
            forms.resubmit_url(),
            forms.resubmit_fields(),
            organization=g.get("current_organization_name", ""),
            mode=g.principal.mode if isinstance(error, ModeSwitched) else "",
        )
    request_id, help_texts = g.get("request_id"), ERROR_HELP
    if portal_mount.is_portal_request():
        help_texts = {**ERROR_HELP, **_PORTAL_HELP}
    if pages.is_htmx_fragment():
        return Response(f"{error.message} ({request_id})", error.status, mimetype="text/plain")
    values = {
        "error": error,
        "advice": help_texts.get(error.status, ERROR_HELP[400]),
        "request_id": request_id,
        "docs_href": docs_path(error.code),
    }
    if error.status == 500:
        text = render_template("errors/crash.html", **values)
    else:
        text = _render_in_frame(_frame(error), values)
    return Response(text, error.status, mimetype="text/html")


def _frame(error: ApiError) -> str:
    """The layout of the pages around the one that failed; the public one where that cannot be read."""
    principal = g.get("principal")
    if portal_mount.is_portal_request():
        return _PORTAL_FRAME
    if principal is None or error.status >= 500:
        return _PUBLIC_FRAME
    if request.path.startswith("/admin") and principal.operator_role is not None:
        return "admin/_layout.html"
    return "dashboard/_layout.html" if principal.has_organization else _PUBLIC_FRAME


def _render_in_frame(frame: str, values: Mapping[str, Any]) -> str:
    if frame != _PUBLIC_FRAME:
        db.session.rollback()
        try:
            return render_template("errors/error.html", frame=frame, **values)
        except Exception:  # the error must be shown whatever keeps the layout from being read
            log.exception("layout_of_error_page_failed")
            db.session.rollback()
    frame = _PORTAL_FRAME if portal_mount.is_portal_request() else _PUBLIC_FRAME
    return render_template("errors/error.html", frame=frame, **values)


def resend_page(
    status: int,
    address: str,
    fields: Sequence[tuple[str, str]],
    *,
    organization: str = "",
    mode: str = "",
    is_signed_in_again: bool = False,
) -> Response:
    """A page that offers to submit a refused form again.

    address: path to submit to; empty when another site may have sent the form
    fields: names and values as submitted
    organization: name of the organization that the form would now change
    mode: in which it would act now, when that has changed
    """
    return pages.render_page(
        "errors/resend.html",
        status=status,
        address=address,
        fields=fields,
        labeled_fields=[(name.replace("_", " ").capitalize(), value) for name, value in fields],
        organization=organization,
        mode=mode,
        is_signed_in_again=is_signed_in_again,
    )


def _login_response() -> Response:
    """Redirect to the login page and back; a submitted form is kept, to be submitted again afterwards.

    A fragment gets a text instead: its user may be typing in the page around it.
    """
    if pages.is_htmx_fragment() and "X-Poll" in request.headers:
        return Response("", 204)
    if pages.is_htmx_fragment():
        text = "Your session has ended. Your input is preserved. Submit it to sign in again."
        if portal_mount.is_portal_request():
            text = "This session has ended. Open the page again from where you came."
        return Response(text, 401, mimetype="text/plain")
    if portal_mount.is_portal_request():
        return pages.render_page("portal/ended.html", status=401)
    if request.method in http.SAFE_METHODS:
        path = request.full_path.rstrip("?")
        return redirect(url_for(setting("LOGIN_ENDPOINT"), next=path), 303)  # type: ignore[return-value]  # werkzeug's own class
    return pages.render_page(
        "errors/sign_in.html", status=401, address=forms.resubmit_url(), fields=forms.resubmit_fields()
    )


def _headers(error: ApiError) -> dict[str, str]:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    elif error.status == 503:
        headers["Retry-After"] = "5"
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="api"'
    if isinstance(error, EncodedBody):
        headers["Accept-Encoding"] = "identity"
    return headers
