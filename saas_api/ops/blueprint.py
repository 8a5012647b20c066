"""Health, readiness, status, development mailbox."""

import ipaddress
from itertools import islice
from uuid import UUID

from flask import Blueprint, Response

from saas_api.core import clock, request_context
from saas_api.core.access import public_page, public_view
from saas_api.core.db import engine
from saas_api.core.errors import NotFound
from saas_api.core.settings import setting
from saas_api.core.web import http, pages
from saas_api.ops import status as ops_status
from saas_api.providers import mailbox as providers_mailbox
from saas_api.providers.mailbox import StoredEmail

bp = Blueprint("ops", __name__)

MAX_LISTED_MAILS = 100


def list_mails(reader: str) -> list[StoredEmail]:
    """The last mails of the mailbox, newest first.

    reader: the address of whoever asks
    raises: NotFound in production, where mails are for their readers alone, and for another machine
    """
    _require_local_request(reader)
    return list(islice(providers_mailbox.list_emails(), MAX_LISTED_MAILS))


def get_mail(mail_id: UUID, reader: str) -> StoredEmail:
    """One mail of the mailbox.

    raises: NotFound, in production and for another machine too
    """
    _require_local_request(reader)
    found = providers_mailbox.find_email(mail_id)
    if found is None:
        raise NotFound
    return found


def _require_local_request(reader: str) -> None:
    is_here = reader != "invalid" and ipaddress.ip_address(reader).is_loopback
    if setting("APP_ENV") == "production" or not is_here:
        raise NotFound


# A mail's own styles stand in its tags; it runs nothing, and nothing comes from elsewhere.
_MAIL_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@bp.get("/healthz")
@public_view
def healthz() -> Response:
    """Say that the process is alive; touches nothing."""
    return http.json_response({"status": "ok"}, 200)


@bp.get("/readyz")
@public_view
def readyz() -> Response:
    """Say whether requests can be served: PostgreSQL must answer, Redis is only reported."""
    is_ready = ops_status.is_database_ready(engine.session())
    report = {
        "status": "ready" if is_ready else "unavailable",
        "postgresql": "ok" if is_ready else "away",
        "redis": "ok" if ops_status.is_redis_ready() else "away",
    }
    return http.json_response(report, 200 if is_ready else 503, None if is_ready else {"Retry-After": "5"})


@bp.get("/status")
@public_page
def status() -> Response:
    """Show which parts of the platform do their work now."""
    return pages.render_page("public/status.html", parts=ops_status.get_status(), at=clock.now())


@bp.get("/ops/mail")
@public_page
def mailbox() -> Response:
    """Show the last mails that nobody sent, to this machine alone; there is no such page in production."""
    return pages.render_page("ops/mailbox.html", mails=list_mails(request_context.client_ip()))


@bp.get("/ops/mail/<uuid:mail_id>")
@public_page
def mail(mail_id: UUID) -> Response:
    """Show one of them as its reader would see it."""
    answer = pages.render_page("ops/mail.html", mail=get_mail(mail_id, request_context.client_ip()))
    answer.headers["Content-Security-Policy"] = _MAIL_POLICY
    return answer
