"""What stands around every page of the console: its navigation, and who acts."""

from dataclasses import dataclass
from typing import Any

from flask import g, request

from saas_api.admin.queries.reading import reading
from saas_api.core.access import NO_ORGANIZATION, has_office
from saas_api.users import service as users

ROOT = "/admin"
PLACES = (
    ("Overview", "", "home"),
    ("Organizations", "/organizations", "people"),
    ("Users", "/users", "person"),
    ("Plans", "/plans", "scale"),
    ("Billing", "/billing", "clock"),
    ("Invoices", "/invoices", "card"),
    ("Payments", "/payments", "switch"),
    ("Deliveries", "/deliveries", "hook"),
    ("Jobs", "/jobs", "gear"),
    ("Invariants", "/invariants", "check"),
    ("Mail", "/mail", "mail"),
    ("System", "/system", "chart"),
    ("Audit", "/audit", "list"),
)


@dataclass(frozen=True)
class Place:
    """An entry of the navigation."""

    text: str
    href: str
    icon: str
    is_current: bool


@dataclass(frozen=True)
class Console:
    """Around a page of the console.

    email: of the operator
    office: "support" or "admin"
    has_dashboard: whether they belong to an organization, too
    """

    email: str
    office: str
    has_dashboard: bool
    navigation: list[Place]


def console() -> Console:
    """The frame of this request's page, read once."""
    if "console" not in g:
        with reading() as session:
            user = users.find(session, g.principal.id)
        navigation = [Place(text, ROOT + path, icon, _is_current(path)) for text, path, icon in PLACES]
        is_member = g.principal.organization_id != NO_ORGANIZATION
        g.console = Console(user.email if user else "", g.principal.office or "", is_member, navigation)
    found: Console = g.console
    return found


def may_write() -> bool:
    """Whether the operator may change anything."""
    return has_office(g.principal, "admin")


def shown() -> dict[str, Any]:
    """What templates of the console may call."""
    return {"console": console, "may_write": may_write}


def _is_current(path: str) -> bool:
    here = request.path.removeprefix(ROOT).rstrip("/")
    return here == path or bool(path and here.startswith(path + "/"))
