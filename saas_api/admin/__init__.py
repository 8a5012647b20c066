"""The operator console: it reads across organizations and writes through the services of the rooms."""

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="admin",
    system_purposes=("admin.act", "admin.read"),
)
