"""What stands around every page of the dashboard: navigation, organizations, and at most one banner."""

from dataclasses import dataclass
from typing import Any

from flask import g, request

from saas_api.auth import service as auth
from saas_api.core import clock
from saas_api.core.access import allows
from saas_api.core.db import session
from saas_api.dashboard.queries import frame as queries
from saas_api.organizations.models import Organization
from saas_api.users.models import User

ROOT = "/dashboard"
PLACES = (
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
class Place:
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
class Frame:
    """Around a page: whose it is, for whom, and what to know first."""

    user: User
    organization: Organization
    role: str
    organizations: list[tuple[Organization, str]]
    is_operator: bool
    navigation: list[Place]
    banner: Banner | None


def frame() -> Frame:
    """The frame of this request's page, read once."""
    if "frame" not in g:
        known = auth.profile(g.principal)
        state = queries.state(session(), g.principal.organization_id, clock.now())
        g.frame = Frame(
            known.user,
            known.organization,
            known.role,
            known.organizations,
            g.principal.office is not None and not g.principal.is_looking,
            _navigation(),
            _banner(state, known.organization),
        )
    found: Frame = g.frame
    return found


def shown() -> dict[str, Any]:
    """What templates of the dashboard may call."""
    return {"frame": frame}


def _navigation() -> list[Place]:
    allowed = [place for place in PLACES if allows(g.principal, place[3])]
    return [Place(text, ROOT + path, icon, _is_current(path)) for text, path, icon, _ in allowed]


def _is_current(path: str) -> bool:
    here = request.path.removeprefix(ROOT)
    return here == path or bool(path and here.startswith(path + "/"))


def _banner(state: queries.State, organization: Organization) -> Banner | None:
    if g.principal.is_looking:
        return Banner("warn", f"You are viewing {organization.name}.", "Nothing can be changed.", end_looking=True)
    if state.status == "suspended":
        return Banner("bad", "This organization is suspended.", "API keys are refused. Contact the operator.")
    return _unpaid(state) or _milder(state)


def _unpaid(state: queries.State) -> Banner | None:
    billing = f"{ROOT}/billing"
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


def _milder(state: queries.State) -> Banner | None:
    if not g.principal.email_verified:
        told = "Open the link in the mail we sent you."
        return Banner("info", "Verify your e-mail address.", told, f"{ROOT}/account", "Send the link again")
    if state.disabled_endpoints:
        told = "It failed for too long, so events are not sent to it."
        return Banner("warn", "A webhook endpoint is disabled.", told, f"{ROOT}/webhooks", "See endpoints")
    if g.principal.mode == "test":
        return Banner("info", "Test data.", "Nothing here is delivered or billed.")
    return None
