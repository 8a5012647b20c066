"""Layout: navigation, banner."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from flask import g, request
from sqlalchemy import text
from sqlalchemy.orm import Session

from saas_api.accounts import sessions
from saas_api.accounts.models import Organization, User
from saas_api.core import access, clock
from saas_api.core.db import engine
from saas_api.core.roles import MemberRole

_STATE = text("""
SELECT o.status, coalesce(s.standing, 'good') AS standing,
  EXISTS (SELECT FROM invoices i WHERE i.organization_id = o.id AND i.state = 'open' AND i.due_at < :at) AS is_past_due,
  EXISTS (SELECT FROM billing_periods p JOIN events e ON e.organization_id = p.organization_id
     AND e.type = 'spend_cap.reached' AND e.subject_id = p.id
    WHERE p.organization_id = o.id AND p.state = 'open' AND p.ends_at > :at) AS is_cap_reached,
  (SELECT count(*) FROM webhook_endpoints w WHERE w.organization_id = o.id
    AND w.status IN ('disabled_failing', 'disabled_gone') AND w.deleted_at IS NULL) AS disabled_endpoints
  FROM organizations o LEFT JOIN subscriptions s ON s.organization_id = o.id WHERE o.id = :organization_id
""")


@dataclass(frozen=True)
class OrganizationState:
    """How an organization is.

    status: the operator's switch
    standing: what unpaid invoices have led to
    """

    status: str
    standing: str
    is_past_due: bool
    is_cap_reached: bool
    disabled_endpoints: int


def get_organization_state(session: Session, organization_id: UUID, at: datetime) -> OrganizationState:
    """How an organization is at an instant."""
    row = session.execute(_STATE, {"organization_id": organization_id, "at": at}).one()
    return OrganizationState(*row)


DASHBOARD_ROOT = "/dashboard"
NAVIGATION = (
    ("Home", "", "home", None),
    ("Messages", "/messages", "message", "messages:read"),
    ("API keys", "/api-keys", "key", "keys:read"),
    ("Usage", "/usage", "chart", "usage:read"),
    ("Webhooks", "/webhooks", "hook", "webhooks:read"),
    ("Billing", "/billing", "card", "billing:read"),
    ("Team", "/team", "people", "members:read"),
    ("Audit log", "/audit-log", "list", "audit:read"),
    ("Settings", "/settings", "gear", "organization:read"),
)


@dataclass(frozen=True)
class NavigationItem:
    """An entry of the navigation."""

    text: str
    href: str
    icon: str
    is_current: bool


@dataclass(frozen=True)
class Banner:
    """The gravest thing to know, and where to go about it."""

    kind: str
    title: str
    text: str
    href: str = ""
    link: str = ""
    end_looking: bool = False


@dataclass(frozen=True)
class Layout:
    """Around a page: whose it is, for whom, and what to know first."""

    user: User
    organization: Organization
    role: str
    organizations: list[tuple[Organization, MemberRole]]
    is_operator: bool
    navigation: list[NavigationItem]
    banner: Banner | None


def get_layout() -> Layout:
    """The frame of this request's page, read once."""
    if "frame" not in g:
        known = sessions.get_profile(g.principal)
        state = get_organization_state(engine.session(), g.principal.organization_id, clock.now())
        g.frame = Layout(
            known.user,
            known.organization,
            known.role,
            known.organizations,
            g.principal.operator_role is not None and not g.principal.is_impersonating,
            _navigation(),
            _banner(state, known.organization),
        )
    found: Layout = g.frame
    return found


def template_context() -> dict[str, Any]:
    """What templates of the dashboard may call."""
    return {"frame": get_layout}


def _navigation() -> list[NavigationItem]:
    allowed = [place for place in NAVIGATION if access.has_permission(g.principal, place[3])]
    return [NavigationItem(text, DASHBOARD_ROOT + path, icon, _is_current(path)) for text, path, icon, _ in allowed]


def _is_current(path: str) -> bool:
    here = request.path.removeprefix(DASHBOARD_ROOT)
    return here == path or bool(path and here.startswith(path + "/"))


def _banner(state: OrganizationState, organization: Organization) -> Banner | None:
    if g.principal.is_impersonating:
        return Banner("warn", f"You are viewing {organization.name}.", "Nothing can be changed.", end_looking=True)
    if state.status == "suspended":
        return Banner("bad", "This organization is suspended.", "API keys are refused. Contact the operator.")
    return _unpaid(state) or _minor_banner(state)


def _unpaid(state: OrganizationState) -> Banner | None:
    billing = f"{DASHBOARD_ROOT}/billing"
    if state.standing == "suspended":
        told = "API keys are refused until the overdue invoices are paid."
        return Banner("bad", "This organization is suspended.", told, billing, "See invoices")
    if state.standing == "restricted":
        return Banner("bad", "Sending is stopped.", "An invoice is overdue.", billing, "Pay the invoice")
    if state.is_past_due:
        return Banner("warn", "An invoice is past due.", "Pay it to keep sending.", billing, "See invoices")
    if state.is_cap_reached:
        told = "Calls that cost more are refused until it is raised or the next period begins."
        return Banner("warn", "The spend cap is reached.", told, billing, "See the cap")
    return None


def _minor_banner(state: OrganizationState) -> Banner | None:
    if not g.principal.email_verified:
        told = "Open the link in the mail we sent you."
        return Banner("info", "Verify your e-mail address.", told, f"{DASHBOARD_ROOT}/account", "Send the link again")
    if state.disabled_endpoints:
        told = "It failed for too long, so events are not sent to it."
        return Banner("warn", "A webhook endpoint is disabled.", told, f"{DASHBOARD_ROOT}/webhooks", "See endpoints")
    if g.principal.mode == "test":
        return Banner("info", "Test data.", "Nothing here is delivered or billed.")
    return None
