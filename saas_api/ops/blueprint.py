"""Probes, the public status page, and the mailbox of development."""

import secrets
from itertools import islice
from uuid import UUID

from flask import Blueprint, Response, render_template, request

from saas_api.core import clock, request_context
from saas_api.core import metrics as core_metrics
from saas_api.core.access import public_page, public_view
from saas_api.core.db import engine
from saas_api.core.errors import NotFound, ServiceUnavailable
from saas_api.core.limits import limiter
from saas_api.core.settings import setting
from saas_api.core.web import http, pages
from saas_api.ops import status as ops_status
from saas_api.ops.metrics import DatabaseMetrics
from saas_api.providers import mailbox as providers_mailbox
from saas_api.status.components import STATE_NAMES, ComponentState

bp = Blueprint("ops", __name__)
bp.record_once(lambda state: state.app.jinja_env.globals.update(has_mailbox=providers_mailbox.is_in_use_for_client))

MAX_LISTED_MAILS = 100
# The styles of a mail are in its tags; nothing in it runs, and nothing is loaded from another host.
_MAIL_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@bp.get("/healthz")
@public_view
def healthz() -> Response:
    """Liveness: the process answers; no engine is used."""
    return http.json_response({"status": "ok"}, 200)


@bp.get("/readyz")
@public_view
def readyz() -> Response:
    """Readiness: PostgreSQL must answer; Redis and the replica, as the last read found it, are only reported."""
    is_ready = ops_status.is_database_ready(engine.session())
    report = {
        "status": "ready" if is_ready else "unavailable",
        "postgresql": "ok" if is_ready else "away",
        "redis": "ok" if ops_status.is_redis_ready() else "away",
    }
    if replica := engine.find_replica():
        report["replica"] = "ok" if replica.away_because is None else "away"
    if servers := limiter.find_own_servers():
        report["limits_redis"] = "ok" if all(servers.values()) else "away"
    return http.json_response(report, 200 if is_ready else 503, None if is_ready else {"Retry-After": "5"})


@bp.get("/version")
@public_view
def version() -> Response:
    """Version of the product, and the commit that it was built from; no engine is used."""
    return http.json_response({"version": setting("VERSION"), "revision": setting("REVISION")}, 200)


@bp.get("/metrics")
@public_view
def metrics() -> Response:
    """Metrics for Prometheus: with METRICS_TOKEN where it is set, otherwise on this machine only; 404 for others."""
    _require_metrics_reader()
    text, media_type = core_metrics.render(DatabaseMetrics())
    return Response(text, 200, content_type=media_type)


@bp.get("/status")
@public_page
def status() -> Response:
    """The status page: the state of each component, now and on the last 90 days, and incidents."""
    parts, past = ops_status.get_status(), ops_status.find_history()
    worst = max((part.state for part in parts), key=list(ComponentState).index)
    return pages.render_page(
        "public/status.html", parts=parts, past=past, worst=worst, state_names=STATE_NAMES, at=clock.now()
    )


@bp.get("/status.atom")
@public_view
def status_feed() -> Response:
    """Incidents as an Atom feed (RFC 4287), an entry for each."""
    past = ops_status.find_history()
    if past is None:
        raise ServiceUnavailable
    text = render_template(
        "public/status_feed.xml",
        incidents=past.incidents,
        url=setting("APP_URL"),
        at=clock.now(),
        rfc3339=clock.format_rfc3339,
    )
    return Response(text, mimetype="application/atom+xml", headers={"Cache-Control": "public, max-age=60"})


@bp.get("/ops/mail")
@public_page
def mailbox() -> Response:
    """The last mails of the file mailbox, newest first."""
    _require_local_development()
    mails = list(islice(providers_mailbox.list_emails(), MAX_LISTED_MAILS))
    return pages.render_page("ops/mailbox.html", mails=mails)


@bp.get("/ops/mail/<uuid:mail_id>")
@public_page
def mail(mail_id: UUID) -> Response:
    """One mail, as its recipient sees it."""
    _require_local_development()
    email = providers_mailbox.find_email(mail_id)
    if email is None:
        raise NotFound
    response = pages.render_page("ops/mail.html", mail=email)
    response.headers["Content-Security-Policy"] = _MAIL_POLICY
    return response


def _require_metrics_reader() -> None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    expected = setting("METRICS_TOKEN")
    if expected and scheme.lower() == "bearer" and secrets.compare_digest(token.strip().encode(), expected.encode()):
        return
    is_forwarded = "X-Forwarded-For" in request.headers  # by a proxy, so the client may be on another machine
    if expected or is_forwarded or not request_context.is_client_local():
        raise NotFound


def _require_local_development() -> None:
    """Hide the mailbox in production and from other machines."""
    if not providers_mailbox.is_open_to_client():
        raise NotFound
