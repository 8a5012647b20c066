"""What those who run the product ask it."""

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="ops",
    system_purposes=("ops.purge", "ops.status"),
)
