"""How an error looks: the JSON envelope under /api, a page elsewhere."""

from flask import Response, g, render_template, request

from saas_api.core.errors import ApiError
from saas_api.core.http import json_response


def render_error(error: ApiError) -> Response:
    """Answer with an error, in the form its reader expects."""
    headers = _headers(error)
    if request.path.startswith("/api/"):
        body = {
            "code": error.code,
            "message": error.message,
            "details": error.details,
            "request_id": g.get("request_id"),
        }
        return json_response({"success": False, "error": body}, error.status, headers)
    page = render_template("errors/error.html", error=error, request_id=g.get("request_id"))
    response = Response(page, error.status, mimetype="text/html")
    response.headers.extend(headers)
    return response


def _headers(error: ApiError) -> dict[str, str]:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    elif error.status == 503:
        headers["Retry-After"] = "5"
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="api"'
    return headers
