"""Organization, time zone and billing account of the page; confirmation by typing."""

from uuid import UUID

from flask import g

from saas_api.accounts import organizations
from saas_api.billing import periods
from saas_api.billing.previews import NoCurrentPeriod
from saas_api.core import clock
from saas_api.core.db import engine
from saas_api.core.errors import ValidationFailed
from saas_api.dashboard import running_period
from saas_api.dashboard.running_period import BillingAccount

PAGE_SIZE, MAX_EXPORT_ROWS, HTMX_STOP_POLLING = 25, 50_000, 286


def current_organization_id() -> UUID:
    """Of whoever is signed in."""
    organization_id: UUID = g.principal.organization_id
    return organization_id


def current_zone() -> str:
    """The organization's time zone, in which every page shows its times."""
    return organizations.get(engine.session(), current_organization_id()).timezone


def current_account() -> BillingAccount:
    """The organization's account with its running period, made where they are missing.

    raises: NoRunningPeriod
    """
    now = clock.now()
    account = running_period.find_account(engine.session(), current_organization_id(), now)
    if account is None:
        periods.ensure_account(engine.session(), current_organization_id())
        periods.ensure_period(engine.session(), current_organization_id(), now)
        account = running_period.find_account(engine.session(), current_organization_id(), now)
    if account is None:
        raise NoCurrentPeriod
    return account


def check_confirmation(text: str, expected: str) -> None:
    """Let somebody pass who typed what they were asked to.

    raises: Invalid
    """
    if text.strip().casefold() != expected.casefold():
        raise ValidationFailed.at_field("typed", f"Type {expected} to confirm.")
