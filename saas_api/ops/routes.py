"""Probes: `/healthz` for restarting a process, `/readyz` for sending it traffic; the status, and the mailbox."""

from uuid import UUID

from flask import Blueprint, Response

from saas_api.core import clock
from saas_api.core.access import public, visitors
from saas_api.core.db import session
from saas_api.core.http import client_ip, json_response
from saas_api.core.render import page
from saas_api.ops import service as ops

bp = Blueprint("ops", __name__)

# A mail's own styles stand in its tags; it runs nothing, and nothing comes from elsewhere.
_MAIL_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@bp.get("/healthz")
@public
def healthz() -> Response:
    """Say that the process is alive; touches nothing."""
    return json_response({"status": "ok"}, 200)


@bp.get("/readyz")
@public
def readyz() -> Response:
    """Say whether requests can be served: PostgreSQL must answer, Redis is only reported."""
    is_ready = ops.database_answers(session())
    report = {
        "status": "ready" if is_ready else "unavailable",
        "postgresql": "ok" if is_ready else "away",
        "redis": "ok" if ops.redis_answers() else "away",
    }
    return json_response(report, 200 if is_ready else 503, None if is_ready else {"Retry-After": "5"})


@bp.get("/status")
@visitors
def status() -> Response:
    """Show which parts of the platform do their work now."""
    return page("public/status.html", parts=ops.status(), at=clock.now())


@bp.get("/ops/mail")
@visitors
def mailbox() -> Response:
    """Show the last mails that nobody sent, to this machine alone; there is no such page in production."""
    return page("ops/mailbox.html", mails=ops.mails(client_ip()))


@bp.get("/ops/mail/<uuid:mail_id>")
@visitors
def mail(mail_id: UUID) -> Response:
    """Show one of them as its reader would see it."""
    answer = page("ops/mail.html", mail=ops.mail(mail_id, client_ip()))
    answer.headers["Content-Security-Policy"] = _MAIL_POLICY
    return answer
