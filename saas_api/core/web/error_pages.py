"""Errors as JSON envelope, page or HTMX fragment; redirect to login."""

from collections.abc import Sequence

from flask import Response, g, redirect, render_template, request, url_for

from saas_api.core.errors import ApiError
from saas_api.core.settings import setting
from saas_api.core.web import forms, http, pages
from saas_api.core.web.forms import FormExpired

SAFE_METHODS = ("GET", "HEAD")
ERROR_HELP = {
    400: "What arrived cannot be read. Go back, reload the page and try again.",
    403: "Your role does not include this. Ask an owner or an admin of your organization.",
    404: "The address may be mistyped, or what it led to belongs to somebody else or is gone.",
    405: "This address is not meant to be opened like that.",
    409: "Something changed meanwhile. Go back, reload the page and try again.",
    413: "What you sent is larger than this page accepts.",
    422: "Something in the address is not valid. Go back and choose again.",
    429: "You did this too often in a short time. Wait a moment, then try again.",
    500: "The mistake is ours and was written down. Try again; if it happens again, tell us the request id.",
    503: "Something we need does not answer right now. Nothing was lost; try again shortly.",
}


def render_error(error: ApiError) -> Response:
    """Answer with an error, in the form its reader expects."""
    if request.path.startswith("/api/"):
        body = {
            "code": error.code,
            "message": error.message,
            "details": error.details,
            "request_id": g.get("request_id"),
        }
        return http.json_response({"success": False, "error": body}, error.status, _headers(error))
    response = _login_redirect() if error.status == 401 else _page(error)
    response.headers.extend({name: value for name, value in _headers(error).items() if name == "Retry-After"})
    return response


def _page(error: ApiError) -> Response:
    if isinstance(error, FormExpired):
        return resend_page(
            error.status, forms.resubmit_url(), forms.resubmit_fields(), organization=g.get("current_organization_name", "")
        )
    shown = {"error": error, "advice": ERROR_HELP.get(error.status, ERROR_HELP[400]), "request_id": g.get("request_id")}
    if pages.is_htmx_fragment():
        return Response(f"{error.message} ({g.get('request_id')})", error.status, mimetype="text/plain")
    template = "errors/crash.html" if error.status == 500 else "errors/error.html"
    return Response(render_template(template, **shown), error.status, mimetype="text/html")


def resend_page(
    status: int,
    address: str,
    fields: Sequence[tuple[str, str]],
    *,
    organization: str = "",
    is_signed_in_again: bool = False,
) -> Response:
    """A page that offers to send again what a refused form held.

    address: where it was sent to; empty when it may not have been a form of ours
    fields: names and values as they were typed
    organization: where it would act now
    """
    return pages.render_page(
        "errors/resend.html",
        status=status,
        address=address,
        fields=fields,
        shown=[(name.replace("_", " ").capitalize(), value) for name, value in fields],
        organization=organization,
        is_signed_in_again=is_signed_in_again,
    )


def _login_redirect() -> Response:
    """Lead who has no session to the door and back; a form that was sent meanwhile is kept.

    A part of a page leads nowhere: somebody may be typing there, and the next click leads to the door.
    """
    if pages.is_htmx_fragment() and "X-Poll" in request.headers:
        return Response("", 204)
    if pages.is_htmx_fragment():
        told = "Your session has ended. What you typed is still here: send it, and you are asked to sign in."
        return Response(told, 401, mimetype="text/plain")
    if request.method in SAFE_METHODS:
        back = request.full_path.rstrip("?")
        return redirect(url_for(setting("LOGIN_ENDPOINT"), next=back), 303)  # type: ignore[return-value]  # werkzeug's own class
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
    return headers
