"""API keys: they are created, rotated and revoked, and requests authenticate with their secrets."""

from saas_api.core.domain import Domain
from saas_api.core.roles import ADMIN_ROLES, ALL_ROLES, TEAM_ROLES

DOMAIN = Domain(
    name="api_keys",
    id_prefixes=("key",),
    permissions={"keys:read": ALL_ROLES, "keys:create": TEAM_ROLES, "keys:write": ADMIN_ROLES},
    system_purposes=("api_keys.seen",),
)
