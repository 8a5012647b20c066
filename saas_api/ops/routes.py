"""Probes: `/healthz` for restarting a process, `/readyz` for sending it traffic."""

from flask import Blueprint, Response

from saas_api.core.access import public
from saas_api.core.db import session
from saas_api.core.http import json_response
from saas_api.ops import service as ops

bp = Blueprint("ops", __name__)


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
