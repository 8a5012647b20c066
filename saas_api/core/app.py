"""One request, one transaction: the view runs, then a success is committed and anything else rolled back.

The commit happens where error handlers still apply, so a constraint that fails at commit is a 409 and nothing was sent.
"""

import atexit
import re
import secrets
import threading
from collections.abc import Callable
from typing import Any

import orjson
from flask import Flask, Response, current_app, g, request
from flask.json.provider import JSONProvider
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import DBAPIError, IntegrityError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from saas_api.core import errors, observe, render
from saas_api.core.db import constraint_of, db, dispose
from saas_api.core.http import client_ip
from saas_api.core.render import render_error
from saas_api.core.settings import ROOT, setting

log = observe.get_logger(__name__)

_TEMPLATES = ROOT / "templates"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_READ_ONLY = "25006"  # SQLSTATE
_BY_STATUS: dict[int, type[errors.ApiError]] = {
    400: errors.Malformed,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    410: errors.Gone,
    413: errors.TooLarge,
    415: errors.UnsupportedMediaType,
    422: errors.Invalid,
    429: errors.TooManyRequests,
    503: errors.Unavailable,
}


class App(Flask):
    """Flask with the request as unit of work."""

    def __init__(self, name: str) -> None:
        super().__init__(name, template_folder=str(_TEMPLATES), static_folder=None)

    def dispatch_request(self) -> ResponseReturnValue:
        """Run the view and settle its transaction by the status of its answer."""
        try:
            response = self.make_response(super().dispatch_request())
            if response.status_code < 400:
                db.session.commit()
            else:
                db.session.rollback()
        except BaseException:
            db.session.rollback()
            raise
        return response


class OrjsonProvider(JSONProvider):
    """JSON for Flask itself."""

    def dumps(self, obj: Any, **_: Any) -> str:
        """Write JSON."""
        return orjson.dumps(obj, option=orjson.OPT_UTC_Z).decode()

    def loads(self, s: str | bytes, **_: Any) -> Any:
        """Read JSON."""
        return orjson.loads(s)


def init_app(app: Flask) -> None:
    """Give an application request ids, security headers, its JSON and the one renderer of errors."""
    app.json = OrjsonProvider(app)
    render.init_app(app)
    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(errors.ApiError, render_error)
    app.register_error_handler(IntegrityError, _conflict)
    app.register_error_handler(OperationalError, _database_away)
    app.register_error_handler(PoolTimeout, _database_away)
    app.register_error_handler(InternalError, _read_only)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _crash)


def _begin() -> None:
    offered = request.headers.get("X-Request-Id", "")
    g.request_id = offered if _REQUEST_ID.fullmatch(offered) else f"req_{secrets.token_hex(12)}"
    address = client_ip()
    observe.begin(g.request_id, None if address == "invalid" else address)


def _finish(response: Response) -> Response:
    headers = response.headers
    headers["X-Request-Id"] = g.get("request_id") or f"req_{secrets.token_hex(12)}"
    headers.extend(_SAFETY)
    if request.is_secure:
        headers["Strict-Transport-Security"] = "max-age=31536000"
    headers.setdefault("Cache-Control", "no-store")
    if response.mimetype == "application/json":
        headers.setdefault("Content-Security-Policy", _DATA_POLICY)
    else:
        headers["X-Frame-Options"] = "DENY"
        headers.setdefault("Content-Security-Policy", _PAGE_POLICY)
    if request.path.startswith("/api/"):
        _allow_origin(response)
    return response


def _allow_origin(response: Response) -> None:
    response.vary.add("Origin")
    origin = request.headers.get("Origin", "")
    if origin not in setting("CORS_ORIGINS"):
        return
    headers = response.headers
    headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Expose-Headers"] = "X-Request-Id, Retry-After, X-RateLimit-Remaining"
    if request.method == "OPTIONS":
        headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, PATCH, DELETE"
        headers["Access-Control-Allow-Headers"] = "Authorization, X-API-Key, Content-Type, Idempotency-Key"
        headers["Access-Control-Max-Age"] = "600"


_SAFETY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def _conflict(error: IntegrityError) -> Response:
    known = errors.ApiError.by_constraint.get(constraint_of(error) or "")
    if known is None:
        return _crash(error)
    return render_error(known())


def _database_away(error: DBAPIError | PoolTimeout) -> Response:
    log.error("database_away", kind=type(error).__name__)
    return render_error(errors.Unavailable())


def _read_only(error: InternalError) -> Response:
    if getattr(error.orig, "pgcode", None) != _READ_ONLY:
        return _crash(error)
    dispose()  # after a fail-over these connections lead to what is a standby now
    return _database_away(error)


def _http_error(error: HTTPException) -> Any:
    if error.code is None or error.code < 400:
        return error
    response = render_error(_BY_STATUS.get(error.code, errors.Malformed)())
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(error.valid_methods)
    return response


def _crash(error: Exception) -> Response:
    log.error("unhandled", exc_info=error)
    return render_error(errors.ApiError())


class Repeated:
    """A call that a process repeats beside its requests, and a last time when it ends."""

    def __init__(self, seconds: float, call: Callable[[], object]) -> None:
        self._seconds = seconds
        self._call = call
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def ensure_started(self) -> None:
        """Start the thread unless it runs; after a fork the child starts its own."""
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 - the documented way to hand an application to a thread
                stop = threading.Event()
                self._thread = threading.Thread(target=self._run, args=(app, stop), daemon=True)
                self._thread.start()
                atexit.register(self._end, app, stop)

    def _run(self, app: Flask, stop: threading.Event) -> None:
        while not stop.wait(self._seconds):
            self._once(app)

    def _end(self, app: Flask, stop: threading.Event) -> None:
        stop.set()
        self._once(app)

    def _once(self, app: Flask) -> None:
        try:
            with app.app_context():
                self._call()
        except OperationalError:
            log.warning("repeated_call_waits_for_database")
        except Exception:
            log.warning("repeated_call_failed", exc_info=True)
