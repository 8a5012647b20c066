"""What the doors of the billing pages share."""

from typing import Any
from uuid import UUID

from flask import g, request, url_for

from saas_api.billing import service as billing
from saas_api.core import clock
from saas_api.core.db import session
from saas_api.dashboard.queries.billing import running as reads
from saas_api.organizations import service as organizations

LIMIT, MOST_ROWS, STOP_POLLING = 25, 50_000, 286


def organization_id() -> UUID:
    """Of whoever is signed in."""
    found: UUID = g.principal.organization_id
    return found


def zone() -> str:
    """The organization's time zone, in which every page shows its times."""
    return organizations.get(session(), organization_id()).timezone


def account() -> reads.Account:
    """The organization's account with its running period, made where they are missing.

    raises: NoRunningPeriod
    """
    now = clock.now()
    found = reads.account(session(), organization_id(), now)
    if found is None:
        billing.ensure_account(session(), organization_id())
        billing.ensure_period(session(), organization_id(), now)
        found = reads.account(session(), organization_id(), now)
    if found is None:
        raise billing.NoRunningPeriod
    return found


def pages(next_cursor: str | None) -> dict[str, Any]:
    """The addresses of the older and of the newest rows of a list, its filters kept."""
    kept: dict[str, Any] = {name: value for name, value in request.args.items() if value and name != "cursor"}
    endpoint = request.endpoint or ""
    return {
        "older": url_for(endpoint, **kept, cursor=next_cursor) if next_cursor else "",
        "newer": url_for(endpoint, **kept) if request.args.get("cursor") else "",
    }
