"""The built-in metered service: mock SMS and email."""

from saas_api.core.domain import Domain
from saas_api.core.roles import ALL_ROLES, TEAM_ROLES

DOMAIN = Domain(
    name="messages",
    id_prefixes=("msg",),
    permissions={
        "messages:read": ALL_ROLES,
        "messages:write": frozenset(),  # only API keys send live messages
        "messages:test": TEAM_ROLES,
        "messages:cancel": TEAM_ROLES,
    },
    scopes={"messages:read": "messages:read", "messages:write": "messages:test"},
    system_purposes=("messages.due", "messages.past"),
    queue="messages",
    is_service=True,
)
