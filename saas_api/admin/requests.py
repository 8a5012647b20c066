"""Requests of the API in the logs of all organizations, found by the ID that a customer or an error page names."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response

from saas_api.accounts.models import Organization
from saas_api.admin import context
from saas_api.core.access import require_operator
from saas_api.core.db import cells
from saas_api.core.fields import StrictSchema, Text
from saas_api.core.web import forms, pages
from saas_api.usage.models import LoggedRequest

bp = Blueprint("requests", __name__)

MAX_FOUND = 20


class RequestSearch(StrictSchema):
    """What to look for."""

    request_id = Text(load_default=None, maximum=64)


def find_requests(request_id: str) -> Sequence[sa.Row[tuple[LoggedRequest, str]]]:
    """The newest requests with an ID in every cell, with the names of their organizations.

    Clients may choose IDs, so several organizations may have used the same one.
    """
    statement = (
        sa.select(LoggedRequest, Organization.name)
        .join(Organization, Organization.id == LoggedRequest.organization_id)
        .where(LoggedRequest.request_id == request_id)
        .order_by(LoggedRequest.at.desc())
        .limit(MAX_FOUND)
    )
    found: list[Any] = []
    for cell in cells.names():
        with cells.use(cell), context.read_session() as session:
            found += session.execute(statement)
            session.expunge_all()
    return found


@bp.get("/admin/requests")
@require_operator("support")
def index() -> Response:
    """Show the requests with an ID."""
    query, form = forms.parse_filters(RequestSearch())
    request_id = query.get("request_id")
    return pages.render_page(
        "admin/requests.html",
        status=422 if form.errors else 200,
        form=form,
        request_id=request_id,
        found=find_requests(request_id) if request_id else (),
    )
