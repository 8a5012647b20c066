"""Health, status and maintenance of a running installation."""

from saas_api.core.domain import Domain

DOMAIN = Domain(
    name="ops",
    system_purposes=("ops.metrics", "ops.partitions", "ops.purge", "ops.status"),
    home_purposes=("ops.moves",),
)
