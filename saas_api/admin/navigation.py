"""Layout of the console: navigation and operator of each page."""

from dataclasses import dataclass
from typing import Any

from flask import g, request

from saas_api.accounts import users
from saas_api.admin import context
from saas_api.core import access
from saas_api.core.db import cells

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
    ("Incidents", "/incidents", "clock", "n"),
    ("Mail", "/mail", "mail", "m"),
    ("System", "/system", "book", "s"),
    ("Audit", "/audit", "list", "a"),
)

OF_ONE_CELL = (
    "/billing",
    "/invoices",
    "/payments",
    "/deliveries",
    "/jobs",
    "/invariants",
    "/mail",
    "/audit",
)
"""Sections whose lists and totals are of the current cell; others are of all cells, or of what home knows of them."""


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
    only_cell: the cell of which a page shows everything, where others have more of it; None elsewhere
    """

    email: str
    operator_role: str
    has_dashboard: bool
    navigation: list[ConsoleNavigationItem]
    only_cell: str | None


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
        role = g.principal.operator_role or ""
        g.console = ConsoleLayout(user.email if user else "", role, is_member, navigation, _only_cell())
    layout: ConsoleLayout = g.console
    return layout


def can_write() -> bool:
    """Whether the operator has the role admin."""
    return access.has_operator_role(g.principal, "admin")


def template_context() -> dict[str, Any]:
    """Functions for the templates of the console."""
    return {"console": get_layout, "may_write": can_write}


def _only_cell() -> str | None:
    is_total = not request.view_args and any(map(_is_current, OF_ONE_CELL))
    return cells.display_name(cells.current()) if is_total and cells.are_several() else None


def _is_current(path: str) -> bool:
    here = request.path.removeprefix(ADMIN_ROOT).rstrip("/")
    return here == path or bool(path and here.startswith(path + "/"))
