"""What the doors of the billing pages share."""

from uuid import UUID

from flask import g

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
