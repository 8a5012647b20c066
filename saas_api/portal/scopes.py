"""What a portal session may do: its scopes, and the permissions and pages of the dashboard that they give. Pure."""

from collections.abc import Collection, Mapping

PERMISSIONS: Mapping[str, frozenset[str]] = {
    "keys:read": frozenset({"keys:read"}),
    "keys:write": frozenset({"keys:read", "keys:create", "keys:write"}),
    "usage:read": frozenset({"usage:read"}),
    "invoices:read": frozenset({"billing:read"}),
    "invoices:pay": frozenset({"billing:read", "billing:write"}),
    "webhooks:read": frozenset({"webhooks:read"}),
    "webhooks:write": frozenset({"webhooks:read", "webhooks:write"}),
}
"""Permissions by scope; a scope that changes something also reads it."""
PAGES = (
    ("API keys", "dashboard.keys.index", "key", "keys:read"),
    ("Usage", "dashboard.usage.index", "chart", "usage:read"),
    ("Logs", "dashboard.requests.index", "logs", "usage:read"),
    ("Invoices", "dashboard.invoice_list.index", "card", "billing:read"),
    ("Webhooks", "dashboard.webhook_endpoints.index", "hook", "webhooks:read"),
)
"""Title, endpoint, icon and permission of the portal's sections, in the order of its menu."""
SECTIONS = frozenset(
    {
        "dashboard.keys",
        "dashboard.usage",
        "dashboard.requests",
        "dashboard.invoice_list",
        "dashboard.invoices",
        "dashboard.webhook_endpoints",
        "dashboard.webhook_deliveries",
    }
)
"""Blueprints of the dashboard whose pages a portal may show. Others need permissions of the scopes, too, such as the
plans that `billing:read` shows: they are in no scope."""
NOT_IN_PORTAL = frozenset({"dashboard.invoices.send"})
"""Views of those blueprints that need a user: to send a user an invoice."""


def is_in_portal(endpoint: str) -> bool:
    """Whether a portal may serve a view of the dashboard, to a session with its permission."""
    return endpoint.rpartition(".")[0] in SECTIONS and endpoint not in NOT_IN_PORTAL


def permissions_of(scopes: Collection[str]) -> frozenset[str]:
    """The permissions that scopes give; those of an unknown scope are none."""
    return frozenset().union(*(PERMISSIONS.get(scope, frozenset()) for scope in scopes))
