"""Names and order of member and operator roles, and the role sets of permissions; pure."""

ROLES = ("owner", "admin", "member", "billing", "viewer")
"""Roles of a member, the highest first."""
OPERATOR_ROLES = ("support", "admin")
"""Roles of an operator of the platform; the second includes the first."""
ALL_ROLES = frozenset(ROLES)
ADMIN_ROLES = frozenset({"owner", "admin"})
TEAM_ROLES = frozenset({"owner", "admin", "member"})
BILLING_ROLES = frozenset({"owner", "billing"})


def is_role_above(role: str, other: str) -> bool:
    """Whether a member's role is higher than another one."""
    return ROLES.index(role) < ROLES.index(other)
