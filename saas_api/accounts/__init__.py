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
        "audit.expire",
        "auth.account",
        "auth.billing_email",
        "auth.devices",
        "auth.failure",
        "auth.join",
        "auth.look",
        "auth.organizations",
        "auth.passwords",
        "auth.principal",
        "auth.profile",
        "auth.refresh",
        "auth.register",
        "auth.sessions",
        "auth.sign_in",
        "auth.verification",
        "organizations.decline",
        "organizations.generations",
    ),
)
