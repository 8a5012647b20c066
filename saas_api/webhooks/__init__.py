"""Events of an organization, and the webhooks that deliver them to its endpoints."""

from saas_api.core.domain import Domain
from saas_api.core.roles import ADMIN_ROLES, ALL_ROLES

DOMAIN = Domain(
    name="webhooks",
    id_prefixes=("evt", "whe", "whd", "tst"),
    permissions={"webhooks:read": ALL_ROLES, "webhooks:write": ADMIN_ROLES},
    system_purposes=("webhooks.clean", "webhooks.due", "webhooks.reseal"),
    queue="webhooks",
)
