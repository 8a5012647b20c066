"""Schedule entry point of maintenance."""

from saas_api.core.timetable import DAY, MINUTE, scheduled
from saas_api.ops import service as ops


@scheduled(
    "ops.purge",
    every=DAY,
    offset=195 * MINUTE,
    description="Delete expired idempotency keys, old job runs and the mock provider's memory.",
)
def purge() -> dict[str, int]:
    return ops.purge()
