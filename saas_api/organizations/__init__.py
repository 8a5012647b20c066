"""Organizations and who belongs to them; the generation that makes every change act at once."""

from saas_api.core.domain import Domain
from saas_api.core.roles import ADMIN_ROLES, ALL_ROLES

DOMAIN = Domain(
    name="organizations",
    id_prefixes=("org", "ivt"),
    permissions={
        "organization:read": ALL_ROLES,
        "organization:write": ADMIN_ROLES,
        "members:read": ALL_ROLES,
        "members:write": ADMIN_ROLES,
        "members:promote": frozenset({"owner"}),
        "audit:read": ADMIN_ROLES,
    },
    system_purposes=("organizations.decline", "organizations.generations"),
)
