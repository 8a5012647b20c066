"""The operator console: pages that read every organization, and actions that call the domains."""

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="admin",
    system_purposes=("admin.act", "admin.find", "admin.read"),
)
