"""Roles of members and operators, their order, and the role sets in which domains state their permissions."""

from enum import StrEnum

OPERATOR_ROLES = ("support", "admin")
"""Roles of an operator of the platform; the second includes the first."""


class MemberRole(StrEnum):
    """Role of a user in an organization, the highest first."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    BILLING = "billing"
    VIEWER = "viewer"


ROLES = tuple(MemberRole)
ASSIGNABLE_ROLES = tuple(role for role in MemberRole if role != MemberRole.OWNER)
"""Roles that an invitation or a role change can give; ownership is transferred."""
ALL_ROLES = frozenset(ROLES)
ADMIN_ROLES = frozenset({MemberRole.OWNER, MemberRole.ADMIN})
TEAM_ROLES = ADMIN_ROLES | {MemberRole.MEMBER}
BILLING_ROLES = frozenset({MemberRole.OWNER, MemberRole.BILLING})


def is_role_above(role: str, other: str) -> bool:
    """Whether a member's role is higher than another one."""
    return ROLES.index(MemberRole(role)) < ROLES.index(MemberRole(other))
