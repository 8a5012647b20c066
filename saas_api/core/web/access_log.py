"""The access log and the metrics of requests. A line never has a query string, a body or a credential."""

import time

from flask import Flask, Response, g, request

from saas_api.core import ids, metrics, request_context, tracing
from saas_api.core.access import Principal
from saas_api.core.observability import get_logger

log = get_logger(__name__)

_DENIED = (401, 403)
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
"""Clients may send any other word, and each would be a series of its own in the memory of the process."""


def init_app(app: Flask) -> None:
    """Count each request, and log it where the setting ACCESS_LOG is on.

    It has to come before other hooks: the first one sees the finished response.
    """
    app.before_request(_start_clock)
    if app.config["ACCESS_LOG"]:
        app.after_request(_log_request)
    app.after_request(_count_request)


def _start_clock() -> None:
    g.began_at = time.perf_counter()


def _count_request(response: Response) -> Response:
    route = request.url_rule.rule if request.url_rule else ""
    method = request.method if request.method in _METHODS else "other"
    metrics.REQUESTS.labels(method, route, response.status_code).inc()
    metrics.REQUEST_SECONDS.labels(route).observe(time.perf_counter() - g.began_at)
    if tracing.is_active():
        _describe_span(response, route)
    if "error_code" in g:
        metrics.REFUSALS.labels(g.error_code).inc()
    return response


def _describe_span(response: Response, route: str) -> None:
    tracing.describe(
        f"{request.method} {route or 'unknown'}",
        **{"http.route": route, "http.response.status_code": response.status_code, "request.id": g.get("request_id")},
        **_caller(g.get("principal")),
    )


def _log_request(response: Response) -> Response:
    fields = {
        "method": request.method,
        "route": request.url_rule.rule if request.url_rule else None,  # not the path: links in mails have secrets in it
        "status": response.status_code,
        "code": g.get("error_code"),
        **_caller(g.get("principal")),
    }
    seconds = time.perf_counter() - g.began_at
    log.info("request", **fields, duration_ms=round(seconds * 1000, 1), bytes=response.content_length)
    if response.status_code in _DENIED:
        log.warning("access_denied", **fields, ip=request_context.client_ip())
    return response


def _caller(principal: Principal | None) -> dict[str, str]:
    if principal is None:
        return {}
    name, prefix = ("key_id", "key") if principal.kind == "key" else ("user_id", "usr")
    caller = {name: ids.format_id(prefix, principal.id)}
    if principal.has_organization:
        caller["organization_id"] = ids.format_id("org", principal.organization_id)
    return caller
