"""Users, organizations and their members, authentication, and the audit log."""

from saas_api.core.domain import Domain
from saas_api.core.roles import ADMIN_ROLES, ALL_ROLES, MemberRole

DOMAIN = Domain(
    name="accounts",
    id_prefixes=("org", "usr", "ses", "ivt"),
    permissions={
        "organization:read": ALL_ROLES,
        "organization:write": ADMIN_ROLES,
        "organization:close": frozenset({MemberRole.OWNER}),
        "members:read": ALL_ROLES,
        "members:write": ADMIN_ROLES,
        "members:promote": frozenset({MemberRole.OWNER}),
        "audit:read": ADMIN_ROLES,
    },
    system_purposes=(
        "accounts.cell_rows",
        "audit.expire",
        "auth.billing_email",
        "auth.membership",
        "auth.join",
        "organizations.decline",
        "organizations.external_ids",
        "organizations.generations",
        "organizations.invitation",
    ),
    home_purposes=(
        "accounts.home_rows",
        "auth.account",
        "auth.authenticators",
        "auth.devices",
        "auth.failure",
        "auth.look",
        "auth.organizations",
        "auth.passwords",
        "auth.principal",
        "auth.profile",
        "auth.refresh",
        "auth.register",
        "auth.sessions",
        "auth.sign_in",
        "auth.two_factor",
        "auth.verification",
        "organizations.directory",
    ),
)
