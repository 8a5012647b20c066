"""Plans, periods, rating and invoices."""

from saas_api.core.domain import Domain
from saas_api.core.roles import ADMIN_ROLES, ALL_ROLES, BILLING_ROLES

DOMAIN = Domain(
    name="billing",
    id_prefixes=("inv", "lin", "crn", "grt", "sub", "bpd", "alr"),
    permissions={
        "billing:read": ALL_ROLES,
        "billing:write": BILLING_ROLES,
        "spend-cap:write": ADMIN_ROLES | BILLING_ROLES,
    },
    system_purposes=(
        "billing.account",
        "billing.alerts",
        "billing.cell_rows",
        "billing.close",
        "billing.closing",
        "billing.due",
        "billing.expiry",
        "billing.invariants",
        "billing.plan_migration",
    ),
    home_purposes=("billing.catalogue", "billing.home_rows"),
)
