"""Principal, Access, the view decorators, can_* and require_* checks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

from saas_api.core import domain
from saas_api.core.errors import Forbidden, NotFound, Unauthenticated
from saas_api.core.roles import OPERATOR_ROLES
from saas_api.core.settings import setting

View = TypeVar("View", bound=Callable[..., Any])

NIL_UUID = UUID(int=0)
PERMISSIONS: Mapping[str, frozenset[str]] = domain.registry.permissions
"""Roles of each permission, as the domains register them."""
SCOPE_REQUIRES_PERMISSION: Mapping[str, str] = domain.registry.scopes
"""The permission that a user needs to give a key each scope."""
SCOPES = SCOPE_REQUIRES_PERMISSION.keys()


class EmailNotVerified(Forbidden):
    """The platform asks for a verified address first, and the person's is not (REQUIRE_VERIFIED_EMAIL)."""

    code, message = "EMAIL_NOT_VERIFIED", "Verify your e-mail address first."


class FreshLoginRequired(Unauthenticated):
    """What cannot be taken back asks for a password of the last ten minutes; a refreshed token has none."""

    code, message = "FRESH_TOKEN_REQUIRED", "Sign in again to do this."


class InsufficientScope(Forbidden):
    """The key is known and lacks the scope."""

    code, message = "INSUFFICIENT_SCOPE", "This API key lacks the scope for that."


@dataclass(frozen=True)
class Principal:
    """Who is calling, for which organization.

    kind: "key" or "user"
    id: of the key or the user
    role: of a person; None for a key
    scopes: of a key
    mode: of a key, "live" or "test"; people see live
    is_fresh: a person whose password was asked within the last ten minutes
    is_looking: an operator looks at the organization: whatever the role allows, nothing is written
    office: "support" or "admin" of who runs the platform; without a membership `organization_id` is NO_ORGANIZATION
    """

    kind: str
    id: UUID
    organization_id: UUID
    role: str | None = None
    scopes: frozenset[str] = field(default_factory=frozenset)
    mode: str = "live"
    email_verified: bool = False
    session_id: UUID | None = None
    is_recently_authenticated: bool = False
    is_impersonating: bool = False
    operator_role: str | None = None


@dataclass(frozen=True)
class Access:
    """What a view asks of its caller: nothing, a signed-in person, or a permission.

    scope: what it asks of a key, where that is called otherwise than the permission of a person
    is_visited: a page for everybody that knows who is signed in, and whose forms come from itself
    office: of an operator; everybody else finds nothing there
    """

    is_public: bool = False
    permission: str | None = None
    scope: str | None = None
    is_login_optional: bool = False
    operator_role: str | None = None

    @property
    def is_open_to_keys(self) -> bool:
        """Whether an API key may call it at all."""
        return (self.scope or self.permission) in SCOPES

    @property
    def is_open_to_people(self) -> bool:
        """Whether a signed-in person may call it at all."""
        return self.permission is None or bool(PERMISSIONS[self.permission])

    @property
    def is_metered(self) -> bool:
        """Whether a call costs money, so that a restricted organization may not make it."""
        return self.permission in domain.registry.metered_permissions


def public_view(view: View) -> View:
    """Declare a view that anybody may call."""
    view.__access__ = Access(is_public=True)  # type: ignore[attr-defined]  # functions carry attributes
    return view


def public_page(view: View) -> View:
    """Declare a page for everybody: it may know who is signed in, and its forms are bound to who opened it."""
    view.__access__ = Access(is_public=True, is_login_optional=True)  # type: ignore[attr-defined]  # functions carry attributes
    return view


def require_operator(office: str) -> Callable[[View], View]:
    """Declare a page of the operator console.

    office: "support", which every operator has, or "admin"
    """
    if office not in OPERATOR_ROLES:
        raise ValueError(f"unknown office {office}")

    def declare(view: View) -> View:
        view.__access__ = Access(operator_role=office)  # type: ignore[attr-defined]  # functions carry attributes
        return view

    return declare


def require_permission(permission: str | None, *, scope: str | None = None) -> Callable[[View], View]:
    """Declare what a view asks for.

    permission: a name of PERMISSIONS; None for any signed-in person
    scope: of a key, where it is not the permission's name
    """
    if permission is not None and permission not in PERMISSIONS:
        raise ValueError(f"unknown permission {permission}")

    def declare(view: View) -> View:
        view.__access__ = Access(permission=permission, scope=scope)  # type: ignore[attr-defined]  # functions carry attributes
        return view

    return declare


def has_permission(principal: Principal, permission: str | None) -> bool:
    """Whether a principal holds a permission, by scope or by role."""
    if principal.kind == "key":
        return permission in SCOPES and permission in principal.scopes
    return permission is None or principal.role in PERMISSIONS[permission]


def has_operator_role(principal: Principal, office: str) -> bool:
    """Whether a person holds an office of the platform, or a higher one; not while they look at an organization."""
    held = principal.operator_role
    return (
        held is not None
        and not principal.is_impersonating
        and OPERATOR_ROLES.index(held) >= OPERATOR_ROLES.index(office)
    )


def can_grant_scope(principal: Principal, scope: str) -> bool:
    """Whether a person may give a key a scope: no key does more than who made it."""
    return principal.kind == "user" and has_permission(principal, SCOPE_REQUIRES_PERMISSION[scope])


def require_fresh_login(principal: Principal) -> None:
    """Let a person pass who gave their password within the last ten minutes.

    raises: NotFresh
    """
    if not principal.is_recently_authenticated:
        raise FreshLoginRequired


def require_verified_email(principal: Principal) -> None:
    """Let a person pass whose address is verified, or anybody where that is not asked.

    raises: EmailNotVerified
    """
    if setting("REQUIRE_VERIFIED_EMAIL") and not principal.email_verified:
        raise EmailNotVerified


def authorize(principal: Principal, asked: Access) -> None:
    """Let a principal pass.

    raises: InsufficientScope for a key, Forbidden for a person, NotFound for who is no operator
    """
    if asked.operator_role is not None:
        if not has_operator_role(principal, asked.operator_role):
            raise NotFound
        return
    wanted = asked.scope if principal.kind == "key" and asked.scope else asked.permission
    if not has_permission(principal, wanted):
        raise InsufficientScope if principal.kind == "key" else Forbidden
