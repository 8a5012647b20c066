"""The Flask subclass of the product: one transaction for each request, security headers and error handlers."""

import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from flask import Flask, Request, Response, current_app, g, request
from flask.json.provider import JSONProvider
from flask.sessions import NullSession, SecureCookieSession, SecureCookieSessionInterface
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import DBAPIError, IntegrityError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, MethodNotAllowed, SecurityError

from saas_api.core import errors, formatting, metrics, request_context, tracing
from saas_api.core.db import cells, engine
from saas_api.core.db.cells import CellUnavailable
from saas_api.core.db.engine import db
from saas_api.core.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    Gone,
    NotFound,
    PayloadTooLarge,
    ServiceUnavailable,
    TooManyRequests,
    Unauthenticated,
    UnsupportedMediaType,
    ValidationFailed,
)
from saas_api.core.observability import get_logger
from saas_api.core.settings import ROOT, setting
from saas_api.core.web import access_log, compression, error_pages, http, portal_mount

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = get_logger(__name__)

_TEMPLATES = ROOT / "templates"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_READ_ONLY = "25006"  # SQLSTATE
_PROBES = frozenset(("/healthz", "/readyz", "/metrics"))
_ERROR_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: errors.MethodNotAllowed,
    410: Gone,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
    422: ValidationFailed,
    429: TooManyRequests,
    503: ServiceUnavailable,
}


_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_JSON_CSP = "default-src 'none'; frame-ancestors 'none'"
_PAGE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_EXPOSED_HEADERS = (
    "X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, X-RateLimit-Limit, X-RateLimit-Remaining, "
    "X-RateLimit-Reset, Idempotency-Replayed"
)


def _security_headers(app_url: str) -> Sequence[tuple[str, str]]:
    """Headers of every response."""
    transport = {"Strict-Transport-Security": "max-age=31536000"} if app_url.startswith("https://") else {}
    return list({**_SECURITY_HEADERS, **transport}.items())


def page_csp(connect_to: Sequence[str] = ()) -> str:
    """The content security policy of a page.

    connect_to: other origins that its scripts may call
    """
    return _PAGE_CSP.replace("connect-src 'self'", " ".join(("connect-src 'self'", *connect_to)))


def _embeddable_csp(origins: Sequence[str]) -> str:
    """The content security policy of a page that some origins may embed."""
    return _PAGE_CSP.replace("frame-ancestors 'none'", f"frame-ancestors {' '.join(origins)}") if origins else _PAGE_CSP


class PageSession(SecureCookieSessionInterface):
    """Flask's session in a cookie, for pages: a call of the API has none, and its cookies are not read.

    The portal has one of its own, which works in a frame of another site where that is allowed.
    """

    _no_session = NullSession()

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """The session of a page; Flask takes None for a request without a session."""
        return None if request.path.startswith("/api/") else super().open_session(app, request)

    def get_cookie_name(self, app: Flask) -> str:
        """Name of the cookie."""
        return portal_mount.cookie_name("visit") if portal_mount.is_portal_request() else super().get_cookie_name(app)

    def get_cookie_path(self, app: Flask) -> str:
        """Path of the cookie."""
        return portal_mount.ROOT if portal_mount.is_portal_request() else super().get_cookie_path(app)

    def get_cookie_samesite(self, app: Flask) -> str | None:
        """Whether the cookie is sent in a frame of another site."""
        return "None" if self.get_cookie_partitioned(app) else super().get_cookie_samesite(app)

    def get_cookie_partitioned(self, app: Flask) -> bool:
        """Whether each site with such a frame has a cookie of its own."""
        return portal_mount.has_embeddable_cookies() or super().get_cookie_partitioned(app)

    def make_null_session(self, app: Flask) -> NullSession:  # noqa: ARG002 - Flask's signature
        """The session of every call of the API: it is empty and cannot be changed."""
        return self._no_session


class App(Flask):
    """Flask with one transaction for each request."""

    session_interface = PageSession()
    replica_endpoints: frozenset[str] = frozenset()
    """Endpoints whose GET requests read from the replica; set with the routes."""

    def __init__(self, name: str) -> None:
        super().__init__(name, template_folder=str(_TEMPLATES), static_folder=None)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function itself: no view and no hook is a coroutine, and Flask asks for each of them at each request."""
        return func

    def wsgi_app(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Serve a request; probes ask the machine by its address, which is no host name of the product."""
        if environ.get("PATH_INFO") in _PROBES:
            environ["HTTP_HOST"] = "localhost"
        portal_mount.mount(environ)
        if not tracing.is_active():
            return super().wsgi_app(environ, start_response)
        parent = {"traceparent": environ.get("HTTP_TRACEPARENT", "")}
        with tracing.span(environ["REQUEST_METHOD"], "server", parent):
            return super().wsgi_app(environ, start_response)

    def dispatch_request(self) -> ResponseReturnValue:
        """Run the view in a transaction, of the replica where its endpoint says so."""
        if request.endpoint in self.replica_endpoints and request.method in ("GET", "HEAD"):
            return engine.read_from_replica(self._run_view)
        return self._run_view()

    def _run_view(self) -> Response:
        """Run the view, and commit its transaction when the response's status is below 400."""
        try:
            response = self.make_response(super().dispatch_request())
            if response.status_code < 400:
                _end_transaction(db.session.commit)
            else:
                _end_transaction(db.session.rollback)
        except BaseException:
            _end_transaction(db.session.rollback)
            raise
        return response


def _end_transaction(end: Callable[[], None]) -> None:
    """Commit or roll back; a request that has opened no session has no transaction."""
    if engine.is_session_open():
        end()


class OrjsonProvider(JSONProvider):
    """Makes Flask read and write JSON with orjson."""

    def dumps(self, obj: Any, **_: Any) -> str:
        return orjson.dumps(obj, option=orjson.OPT_UTC_Z).decode()

    def loads(self, s: str | bytes, **_: Any) -> Any:
        return orjson.loads(s)


def init_app(app: Flask) -> None:
    """Register request ids, security headers, JSON and error handlers."""
    app.json = OrjsonProvider(app)
    access_log.init_app(app)
    compression.init_app(app)
    app.before_request(_start_request)
    app.after_request(_add_response_headers)
    app.extensions["security_headers"] = _security_headers(app.config["APP_URL"])
    app.register_error_handler(ApiError, error_pages.render_error)
    app.register_error_handler(IntegrityError, _handle_integrity_error)
    app.register_error_handler(OperationalError, _handle_database_unavailable)
    app.register_error_handler(PoolTimeout, _handle_database_unavailable)
    app.register_error_handler(InternalError, _handle_read_only_database)
    app.register_error_handler(HTTPException, _handle_http_exception)
    app.register_error_handler(Exception, _handle_unexpected)


def error_response(error: ApiError) -> Response:
    """The response to a request that the server could not read, in a request context of its own."""
    g.request_id = _new_request_id()
    return _add_response_headers(error_pages.render_error(error))


def _new_request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


def _start_request() -> None:
    formatting.set_locale(formatting.DEFAULT_LOCALE)  # the thread may have shown a page of another organization
    client_id = request.environ.get("HTTP_X_REQUEST_ID", "")
    is_chosen = _REQUEST_ID.fullmatch(client_id) is not None
    g.request_id = client_id if is_chosen else _new_request_id()
    ip = request_context.client_ip()
    recorded_id = f"client:{client_id}" if is_chosen else g.request_id  # no client can forge an id of ours
    request_context.begin_request(recorded_id, None if ip == "invalid" else ip)


def _add_response_headers(response: Response) -> Response:
    present = {name.lower() for name, _ in response.headers}
    is_json = response.mimetype == "application/json"
    headers = [("X-Request-Id", g.get("request_id") or _new_request_id())]
    headers += current_app.extensions["security_headers"]
    if "cache-control" not in present:
        headers.append(("Cache-Control", "no-store"))
    embedding_origins = portal_mount.embedding_origins()
    if not is_json and not embedding_origins:
        headers.append(("X-Frame-Options", "DENY"))  # which cannot name an origin
    if "content-security-policy" not in present:
        headers.append(("Content-Security-Policy", _JSON_CSP if is_json else _embeddable_csp(embedding_origins)))
    incoming = request_context.current_request()
    if incoming.path.startswith("/api/"):
        headers += _cross_origin_headers(incoming)
        if "vary" in present:
            response.vary.add("Origin")
        else:
            headers.append(("Vary", "Origin"))
    http.append_headers(response, headers)
    return response


def _cross_origin_headers(incoming: Request) -> list[tuple[str, str]]:
    origin = incoming.environ.get("HTTP_ORIGIN")
    if origin is None or origin not in setting("CORS_ORIGINS"):
        return []
    headers = [("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", _EXPOSED_HEADERS)]
    if incoming.method == "OPTIONS":
        headers += [
            ("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE"),
            ("Access-Control-Allow-Headers", "Authorization, X-API-Key, Content-Type, Idempotency-Key"),
            ("Access-Control-Max-Age", "600"),
        ]
    return headers


def _handle_integrity_error(error: IntegrityError) -> Response:
    constraint_error = http.find_constraint_error(error)
    return error_pages.render_error(constraint_error) if constraint_error else _handle_unexpected(error)


def _handle_database_unavailable(error: DBAPIError | PoolTimeout) -> Response:
    sqlstate = getattr(getattr(error, "orig", None), "pgcode", None)
    log.error("database_away", kind=type(error).__name__, sqlstate=sqlstate)
    metrics.DATABASE_FAILURES.labels(type(error).__name__).inc()
    is_cell = isinstance(error, DBAPIError) and engine.failed_cell(error) is not None
    return error_pages.render_error(
        CellUnavailable(retry_after=cells.RETRY_SECONDS) if is_cell else ServiceUnavailable()
    )


def _handle_read_only_database(error: InternalError) -> Response:
    if getattr(error.orig, "pgcode", None) != _READ_ONLY:
        return _handle_unexpected(error)
    engine.dispose_connections()  # after a fail-over the pooled connections lead to a standby
    return _handle_database_unavailable(error)


def _handle_http_exception(error: HTTPException) -> Any:
    if error.code is None or error.code < 400:
        return error
    if isinstance(error, SecurityError):
        return error_pages.render_error(
            BadRequest("The service has another host name: that of APP_URL, or one of APP_HOSTS.")
        )
    response = error_pages.render_error(_ERROR_BY_STATUS.get(error.code, BadRequest)())
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(error.valid_methods)
    return response


def _handle_unexpected(error: Exception) -> Response:
    log.error("unhandled", exc_info=error)
    return error_pages.render_error(ApiError())
