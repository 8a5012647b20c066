"""What pages of the dashboard share: organization, time zone, billing account, page sizes, confirmation by typing."""

from dataclasses import replace
from uuid import UUID

from flask import flash, g, request
from marshmallow import fields, validate

from saas_api.accounts import organizations
from saas_api.billing import current_period
from saas_api.billing.current_period import BillingAccount
from saas_api.core import clock
from saas_api.core.access import KeyMode
from saas_api.core.db import engine
from saas_api.core.errors import Conflict, ValidationFailed
from saas_api.core.fields import StrictSchema
from saas_api.core.web import http, pages


class ConfirmationForm(StrictSchema):
    """The text typed to confirm."""

    typed = fields.String(load_default="", validate=validate.Length(max=300))


def current_organization_id() -> UUID:
    """Organization of the signed-in user."""
    organization_id: UUID = g.principal.organization_id
    return organization_id


def current_zone() -> str:
    """Name of the organization's time zone, in which every page shows its times."""
    return organizations.get_organization(engine.session(), current_organization_id()).timezone


def find_account() -> BillingAccount | None:
    """Returns the organization's account as `current_period.find_account`, read once in a request."""
    if g.get("billing_account") is None:
        g.billing_account = current_period.find_account(engine.session(), current_organization_id(), clock.now())
    account: BillingAccount | None = g.billing_account
    return account


def current_account() -> BillingAccount:
    """Returns the organization's account with its current period, and creates them where they are missing.

    raises: NoCurrentPeriod
    """
    account = find_account()
    if account is None:
        account = current_period.get_account(engine.session(), current_organization_id(), clock.now())
        g.billing_account = account
    return account


def require_live_mode() -> None:
    """Refuse a form while the dashboard shows test data; runs before each request of a section without a test mode.

    raises: Conflict
    """
    if g.principal.mode == KeyMode.TEST and request.method not in http.SAFE_METHODS:
        raise Conflict("This page has no test mode. Switch to live data to make changes.")


def use_mode(mode: str) -> None:
    """Show the page of this request in a mode."""
    g.principal = replace(g.principal, mode=KeyMode(mode))


def enter_mode(mode: str) -> None:
    """Show this page, and those that follow, in a mode."""
    use_mode(mode)
    g.changed_preferences = {"mode": mode}


def follow_mode(mode: str) -> None:
    """Match the mode of the dashboard with that of the object of a request.

    A page of the other mode switches the dashboard, so that links to objects always work. A form is refused instead,
    and a poll changes only itself: the dashboard was switched in another tab.
    raises: Conflict
    """
    if mode == g.principal.mode:
        return
    if request.method not in http.SAFE_METHODS:
        raise Conflict(f"This is {mode} data. Switch to {mode} data to make changes.")
    if pages.is_htmx_fragment():
        use_mode(mode)
    else:
        follow_created(mode)


def follow_created(mode: str) -> None:
    """Show an object that was just created, and the pages that follow, in its mode."""
    if mode != g.principal.mode:
        enter_mode(mode)
        flash(f"You're viewing {mode} data.")


def check_confirmation(text: str, expected: str) -> None:
    """Compares the typed text, ignoring case and surrounding spaces.

    raises: ValidationFailed at `typed` when it differs from the expected text
    """
    if text.strip().casefold() != expected.strip().casefold():
        raise ValidationFailed.at_field("typed", f"Type {expected} to confirm.")
