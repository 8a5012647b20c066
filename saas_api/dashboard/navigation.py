"""The layout around every page of the dashboard: navigation, organization switch, banner."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from flask import g, request, url_for
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import sessions
from saas_api.accounts.models import Organization, OrganizationStatus, User
from saas_api.billing import spend_cap
from saas_api.billing.models import BillingStanding
from saas_api.core import access, brand, clock
from saas_api.core.access import KeyMode, NoOrganization
from saas_api.core.db import engine
from saas_api.core.roles import MemberRole
from saas_api.dashboard import context
from saas_api.providers import mailbox

_STATE = text("""
SELECT o.status, coalesce(s.standing, 'good') AS standing,
  EXISTS (SELECT FROM invoices i WHERE i.organization_id = o.id AND i.state = 'open' AND i.due_at < :at) AS is_past_due,
  (SELECT count(*) FROM webhook_endpoints w WHERE w.organization_id = o.id AND w.mode = :mode
    AND w.status IN ('disabled_failing', 'disabled_gone') AND w.deleted_at IS NULL) AS disabled_endpoints,
  CASE WHEN o.status = 'suspended' THEN (
    SELECT a.data ->> 'reason' FROM audit_events a
     WHERE a.organization_id = o.id AND a.action = 'organization.suspended' ORDER BY a.id DESC LIMIT 1) END
    AS suspension_reason
  FROM organizations o LEFT JOIN subscriptions s ON s.organization_id = o.id WHERE o.id = :organization_id
""")


DASHBOARD_ROOT = "/dashboard"
NAVIGATION = (
    ("Home", "", "home", "h", None),
    ("Messages", "/messages", "message", "m", "messages:read"),
    ("API keys", "/api-keys", "key", "k", "keys:read"),
    ("Usage", "/usage", "chart", "u", "usage:read"),
    ("Logs", "/logs", "logs", "l", "usage:read"),
    ("Webhooks", "/webhooks", "hook", "w", "webhooks:read"),
    ("Billing", "/billing", "card", "b", "billing:read"),
    ("Team", "/team", "people", "t", "members:read"),
    ("Audit log", "/audit-log", "list", "a", "audit:read"),
    ("Settings", "/settings", "gear", "s", "organization:read"),
)
SECTIONS_WITH_TEST_DATA = ("", "/messages", "/api-keys", "/usage", "/logs", "/webhooks")
"""Paths of sections that show the data of one mode."""


@dataclass(frozen=True)
class OrganizationState:
    """What the banner depends on.

    status: set by operators
    standing: follows from unpaid invoices
    suspension_reason: of the operator who suspended it; None unless it is
    """

    status: str
    standing: str
    is_past_due: bool
    disabled_endpoints: int
    suspension_reason: str | None


def get_organization_state(session: Session, organization_id: UUID, at: datetime, mode: str) -> OrganizationState:
    """Returns the state of an organization at an instant, with its endpoints of a mode."""
    row = session.execute(_STATE, {"organization_id": organization_id, "at": at, "mode": mode}).one()
    return OrganizationState(*row)


@dataclass(frozen=True)
class NavigationItem:
    """An entry of the navigation.

    shortcut: opens it after the key g
    """

    text: str
    href: str
    icon: str
    shortcut: str
    is_current: bool


@dataclass(frozen=True)
class Banner:
    """The most serious notice of an organization, with a link."""

    kind: str
    title: str
    text: str
    href: str = ""
    link: str = ""


@dataclass(frozen=True)
class Layout:
    """Data of the layout: user, organization, navigation and banner.

    is_viewed: an operator looks at the organization; the banner is the one that its members see
    list_path: of the section's list or of this page, shown after the mode is switched: an object has one mode
    test_notice: title and text about what test mode means for this page; None in live mode
    """

    user: User
    organization: Organization
    role: str
    organizations: list[tuple[Organization, MemberRole]]
    is_operator: bool
    navigation: list[NavigationItem]
    is_viewed: bool
    banner: Banner | None
    list_path: str
    test_notice: tuple[str, str] | None


def get_layout() -> Layout:
    """Returns the layout of this request's page, read once."""
    if "layout" not in g:
        profile = sessions.get_profile(g.principal)
        if profile.organization is None or profile.role is None:
            raise NoOrganization
        state = get_organization_state(engine.session(), g.principal.organization_id, clock.now(), g.principal.mode)
        g.layout = Layout(
            profile.user,
            profile.organization,
            profile.role,
            profile.organizations,
            g.principal.operator_role is not None and not g.principal.is_impersonating,
            _navigation(),
            g.principal.is_impersonating,
            _banner(state),
            _list_path(),
            _test_notice(),
        )
    layout: Layout = g.layout
    return layout


def template_context() -> dict[str, Any]:
    """Returns the functions that templates of the dashboard call."""
    return {"dashboard_layout": get_layout}


def _navigation() -> list[NavigationItem]:
    return [
        NavigationItem(text, DASHBOARD_ROOT + path, icon, shortcut, _is_current(path))
        for text, path, icon, shortcut, permission in NAVIGATION
        if access.has_permission(g.principal, permission)
    ]


def _is_current(path: str) -> bool:
    current_path = request.path.removeprefix(DASHBOARD_ROOT)
    return current_path == path or bool(path and current_path.startswith(path + "/"))


def _banner(state: OrganizationState) -> Banner | None:
    shown = brand.current_brand()
    if state.status == OrganizationStatus.SUSPENDED:
        reason = f"Reason: {state.suspension_reason.rstrip('.')}. " if state.suspension_reason else ""
        text = f"{reason}Requests with API keys are rejected. {shown.contact_support}"
        return Banner("bad", "This organization is suspended.", text, shown.support_href, "Contact support")
    if state.status == OrganizationStatus.CLOSED:
        text = "API keys are revoked. You can still view all data and pay invoices."
        return Banner("info", "This organization is closed.", text, f"{DASHBOARD_ROOT}/billing", "View invoices")
    return _unpaid(state) or _minor_banner(state)


def _unpaid(state: OrganizationState) -> Banner | None:
    billing = f"{DASHBOARD_ROOT}/billing"
    if state.standing == BillingStanding.SUSPENDED:
        text = "Requests with API keys are rejected until overdue invoices are paid."
        return Banner("bad", "This organization is suspended.", text, billing, "View invoices")
    if state.standing == BillingStanding.RESTRICTED:
        return Banner("bad", "Sending is stopped.", "An invoice is overdue.", billing, "Pay invoice")
    if state.is_past_due:
        return Banner("warn", "An invoice is past due.", "Pay it to keep sending.", billing, "View invoices")
    return _spend_cap()


def _spend_cap() -> Banner | None:
    session, now = engine.session(), clock.now()
    account = context.find_account()
    if account is None or not spend_cap.is_cap_reached(session, account.profile, account.period, account.stages, now):
        return None
    text = "Calls that would exceed it are rejected until you raise the cap or the next period starts."
    if account.profile.spend_cap_action == "alert":
        text = "Calls are not rejected: this cap only notifies you."
    return Banner("warn", "The spend cap is reached.", text, f"{DASHBOARD_ROOT}/billing/spending", "View cap")


def _minor_banner(state: OrganizationState) -> Banner | None:
    if not g.principal.email_verified and not g.principal.is_impersonating:
        if mailbox.is_in_use_for_client():
            text = "No SMTP server is set, so the email with the link is in the mailbox."
            return Banner("info", "Verify your email address.", text, url_for("ops.mailbox"), "Open mailbox")
        text = "Open the link in the email we sent you."
        return Banner("info", "Verify your email address.", text, f"{DASHBOARD_ROOT}/account", "Resend link")
    if state.disabled_endpoints:
        text = "Deliveries failed for too long, so events are no longer sent to it."
        return Banner("warn", "A webhook endpoint is disabled.", text, f"{DASHBOARD_ROOT}/webhooks", "View endpoints")
    return None


def _list_path() -> str:
    sections = (DASHBOARD_ROOT + path for path in SECTIONS_WITH_TEST_DATA if _is_current(path))
    return next(sections, request.path)


def _test_notice() -> tuple[str, str] | None:
    if g.principal.mode != KeyMode.TEST:
        return None
    if _is_current("/webhooks"):
        return "Test data.", "Events of test mode are sent to test endpoints only."
    if any(_is_current(path) for path in SECTIONS_WITH_TEST_DATA):
        return "Test data.", "Nothing here is delivered or billed."
    return "Live data.", "This page has no test mode."
