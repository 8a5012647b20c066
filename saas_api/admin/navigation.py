"""Layout of the console: navigation and operator of each page."""

from dataclasses import dataclass
from typing import Any

from flask import g, request

from saas_api.accounts import users
from saas_api.admin import context
from saas_api.core import access

ADMIN_ROOT = "/admin"
NAVIGATION = (
    ("Overview", "", "home", "h"),
    ("Revenue", "/revenue", "chart", "r"),
    ("Organizations", "/organizations", "people", "o"),
    ("Users", "/users", "person", "u"),
    ("Plans", "/plans", "scale", "p"),
    ("Meters", "/meters", "gauge", "t"),
    ("Services", "/services", "shield", "e"),
    ("Billing", "/billing", "clock", "b"),
    ("Invoices", "/invoices", "card", "i"),
    ("Payments", "/payments", "switch", "y"),
    ("Deliveries", "/deliveries", "hook", "d"),
    ("Requests", "/requests", "logs", "q"),
    ("Jobs", "/jobs", "gear", "j"),
    ("Integrity checks", "/invariants", "check", "v"),
    ("Mail", "/mail", "mail", "m"),
    ("System", "/system", "book", "s"),
    ("Audit", "/audit", "list", "a"),
)


@dataclass(frozen=True)
class ConsoleNavigationItem:
    """A link of the navigation.

    shortcut: opens it after the key g
    """

    text: str
    href: str
    icon: str
    shortcut: str
    is_current: bool


@dataclass(frozen=True)
class ConsoleLayout:
    """What the layout shows around a page.

    email: of the operator
    operator_role: "support" or "admin"
    has_dashboard: whether the operator is a member of an organization, too
    """

    email: str
    operator_role: str
    has_dashboard: bool
    navigation: list[ConsoleNavigationItem]


def get_layout() -> ConsoleLayout:
    """The layout of this request's page, read once."""
    if "console" not in g:
        with context.read_session() as session:
            user = users.find_user(session, g.principal.id)
        navigation = [
            ConsoleNavigationItem(text, ADMIN_ROOT + path, icon, shortcut, _is_current(path))
            for text, path, icon, shortcut in NAVIGATION
        ]
        is_member = g.principal.has_organization
        g.console = ConsoleLayout(user.email if user else "", g.principal.operator_role or "", is_member, navigation)
    layout: ConsoleLayout = g.console
    return layout


def can_write() -> bool:
    """Whether the operator has the role admin."""
    return access.has_operator_role(g.principal, "admin")


def template_context() -> dict[str, Any]:
    """Functions for the templates of the console."""
    return {"console": get_layout, "may_write": can_write}


def _is_current(path: str) -> bool:
    here = request.path.removeprefix(ADMIN_ROOT).rstrip("/")
    return here == path or bool(path and here.startswith(path + "/"))
