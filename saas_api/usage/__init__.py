"""Usage ledger, its rollups by hour, counts of calls and the log of requests."""

from saas_api.core.domain import Domain
from saas_api.core.roles import ALL_ROLES

DOMAIN = Domain(
    name="usage",
    permissions={"usage:read": ALL_ROLES},
    scopes={"usage:read": "usage:read"},
    system_purposes=("usage.cell_rows", "usage.counts", "usage.requests", "usage.roll_up"),
    home_purposes=("usage.home_rows", "usage.meters"),
)
