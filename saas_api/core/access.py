"""The principal of a request, and the access that each view requires: decorators, checks and their errors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from saas_api.core import domain
from saas_api.core.errors import Forbidden, NotFound, Unauthenticated
from saas_api.core.ids import NIL_UUID
from saas_api.core.roles import OPERATOR_ROLES
from saas_api.core.settings import setting

View = TypeVar("View", bound=Callable[..., Any])

PERMISSIONS: Mapping[str, frozenset[str]] = domain.registry.permissions
"""Roles of each permission, as the domains register them."""
SCOPE_REQUIRES_PERMISSION: Mapping[str, str] = domain.registry.scopes
"""The permission that a user needs to give a key each scope."""
SCOPES = SCOPE_REQUIRES_PERMISSION.keys()
"""Scopes of this application; services have others."""
FULL_ACCESS = "*"
"""Stored instead of scopes for a key that has every scope, also of services that are added later."""


class EmailNotVerified(Forbidden):
    """REQUIRE_VERIFIED_EMAIL is set and the user's address is not verified."""

    code, message = "EMAIL_NOT_VERIFIED", "Verify your email address first."


class FreshLoginRequired(Unauthenticated):
    """The user did not give the password within the last ten minutes; refreshing a token does not count."""

    code, message = "FRESH_TOKEN_REQUIRED", "Give your password again to do this (POST /api/v1/auth/reauthenticate)."


class NoOrganization(Forbidden):
    """The user is not a member of any organization, or signed in without one."""

    code, message = "NO_ORGANIZATION", "Create an organization or accept an invitation first."


class InsufficientScope(Forbidden):
    """The API key does not have the scope."""

    code, message = "INSUFFICIENT_SCOPE", "This API key lacks the scope for that."


class InsufficientPortalScope(Forbidden):
    """The portal session does not have the scope; pages of accounts, teams and the console are in no scope."""

    code, message = "INSUFFICIENT_PORTAL_SCOPE", "This portal does not give access to that."


class KeyMode(StrEnum):
    """Mode of an API key; messages of a test key are not billed."""

    LIVE = "live"
    TEST = "test"


@dataclass(frozen=True)
class Principal:
    """The authenticated caller: an API key, a user or a portal session, with the organization.

    kind: "key", "user" or "portal"
    id: of the key, the user or the portal session
    organization_id: NIL_UUID for a user without one
    role: of a user; None for others
    scopes: of a key; FULL_ACCESS stands for all; of a portal session, its permissions
    mode: of a key, "live" or "test"; of others, the mode that the dashboard shows
    is_recently_authenticated: the user gave the password within the last ten minutes
    is_impersonating: an operator views the organization: nothing is written, whatever the role allows
    operator_role: "support" or "admin"; None for a user who is no operator
    is_organization_closed: of a user: nothing new begins in the organization
    locale: of a user's organization, for pages; None for a key, and for a user without one
    """

    kind: str
    id: UUID
    organization_id: UUID
    role: str | None = None
    scopes: frozenset[str] = field(default_factory=frozenset)
    mode: str = KeyMode.LIVE
    email_verified: bool = False
    session_id: UUID | None = None
    is_recently_authenticated: bool = False
    is_impersonating: bool = False
    operator_role: str | None = None
    is_organization_closed: bool = False
    locale: str | None = None

    def has_scope(self, scope: str) -> bool:
        """Whether a key has a scope, of this application or of a service."""
        return scope in self.scopes or FULL_ACCESS in self.scopes

    @property
    def is_in_portal(self) -> bool:
        """Whether a session of the customer portal makes the request."""
        return self.kind == "portal"

    @property
    def has_organization(self) -> bool:
        """False for a user who is not a member of any organization."""
        return self.organization_id != NIL_UUID

    @property
    def home_path(self) -> str:
        """Path of the first page: the portal or the dashboard; without an organization, the console or a form."""
        if self.is_in_portal:
            return "/portal"
        if self.has_organization:
            return "/dashboard"
        return "/organizations/new" if self.operator_role is None else "/admin"

    @property
    def home_name(self) -> str:
        """Name of the page at `home_path`, as links show it."""
        if self.is_in_portal:
            return "Start page"
        if self.has_organization:
            return "Dashboard"
        return "New organization" if self.operator_role is None else "Operator console"

    @property
    def tenant_id(self) -> UUID:
        """The organization to which requests are bound; the id of the user, which no organization has, without one."""
        return self.organization_id if self.has_organization else self.id


@dataclass(frozen=True)
class Access:
    """Access that a view requires.

    is_public: no caller is authenticated
    is_login_optional: with `is_public`: a page that knows a signed-in user and protects its forms against CSRF
    permission: of the caller; None for any signed-in user
    scope: of a key, where its name differs from `permission`
    operator_role: of an operator; other users get NotFound. With `is_for_services`: such an operator may call it, too
    is_metered: a call costs money, so a restricted organization may not make it
    is_for_services: of a service, by its token; no organization is bound
    is_for_portal: of a portal session; others get NotFound. Without `permission`, whatever its scopes
    is_generation_compared: with `is_for_services`: the view itself compares the generation of the catalogue
    """

    is_public: bool = False
    is_login_optional: bool = False
    permission: str | None = None
    scope: str | None = None
    operator_role: str | None = None
    is_metered: bool = False
    is_for_services: bool = False
    is_for_portal: bool = False
    is_generation_compared: bool = False

    @property
    def is_open_to_keys(self) -> bool:
        """Whether some API key may call the view."""
        return (self.scope or self.permission) in SCOPES

    @property
    def is_open_to_users(self) -> bool:
        """Whether some signed-in user may call the view."""
        if self.is_for_services:
            return self.operator_role is not None
        return self.permission is None or bool(PERMISSIONS[self.permission])


def public_view(view: View) -> View:
    """Declare a view without authentication."""
    return _declare(view, Access(is_public=True))


def public_page(view: View) -> View:
    """Declare a page without authentication that knows a signed-in user; its forms are protected against CSRF."""
    return _declare(view, Access(is_public=True, is_login_optional=True))


def require_portal_session(permission: str | None = None) -> Callable[[View], View]:
    """Declare a page of the customer portal that others do not find.

    permission: that the scopes of the session must give; None for every session
    """
    return lambda view: _declare(view, Access(permission=permission, is_for_portal=True))


def require_operator(operator_role: str) -> Callable[[View], View]:
    """Declare a page of the operator console.

    operator_role: "support", which every operator has, or "admin"
    """
    if operator_role not in OPERATOR_ROLES:
        raise ValueError(f"unknown operator role {operator_role}")
    return lambda view: _declare(view, Access(operator_role=operator_role))


def require_permission(
    permission: str | None, *, scope: str | None = None, is_metered: bool = False
) -> Callable[[View], View]:
    """Declare a view that requires a permission.

    permission: a name in PERMISSIONS; None for any signed-in user
    scope: of a key, where its name differs from the permission's
    is_metered: a call costs money; `metering.metered_endpoints.metered` declares it
    """
    if permission is not None and permission not in PERMISSIONS:
        raise ValueError(f"unknown permission {permission}")
    return lambda view: _declare(view, Access(permission=permission, scope=scope, is_metered=is_metered))


def require_service(*, compares_generation: bool = False, operator_role: str | None = None) -> Callable[[View], View]:
    """Declare a view for service tokens; the service is in `g.service`.

    compares_generation: the view reads the generation of the catalogue in a round trip of its own and authenticates
        again where `g.service` has an older one, so that the gate does not ask Redis for it
    operator_role: of operators who may call it too, with an access token; `g.principal` is set then, and no `g.service`
    """
    access = Access(is_for_services=True, is_generation_compared=compares_generation, operator_role=operator_role)
    return lambda view: _declare(view, access)


def _declare(view: View, access: Access) -> View:
    view.__access__ = access  # type: ignore[attr-defined]  # functions carry attributes
    return view


def has_permission(principal: Principal, permission: str | None) -> bool:
    """Whether a key has the scope, or the role of a user the permission; never for a service that is switched off."""
    if permission is not None and not is_served(permission):
        return False
    if principal.kind == "key":
        return permission is not None and permission in SCOPES and principal.has_scope(permission)
    if principal.is_in_portal:
        return permission in principal.scopes
    return permission is None or principal.role in PERMISSIONS[permission]


def is_served(permission: str) -> bool:
    """Whether a permission or scope is not of a service of this application that is switched off."""
    service = permission.partition(":")[0]
    return service not in domain.registry.services or is_service_offered(service)


def is_service_offered(name: str) -> bool:
    """Whether the setting SERVICES offers a service of this application."""
    return bool({"all", name} & set(setting("SERVICES")))


def has_operator_role(principal: Principal, operator_role: str) -> bool:
    """Whether a user has an operator role or a higher one; never during an impersonation."""
    own_role = principal.operator_role
    return (
        own_role is not None
        and not principal.is_impersonating
        and OPERATOR_ROLES.index(own_role) >= OPERATOR_ROLES.index(operator_role)
    )


def can_grant_scope(principal: Principal, scope: str) -> bool:
    """Whether a user may give a key a scope: a key has no permission that its creator lacks.

    A portal session that manages keys may grant every scope: it may rotate a key that has them.

    scope: also of a service, which every user who may create keys may grant
    """
    if principal.is_in_portal:
        return has_permission(principal, "keys:create")
    return principal.kind == "user" and has_permission(principal, SCOPE_REQUIRES_PERMISSION.get(scope, "keys:create"))


def require_fresh_login(principal: Principal) -> None:
    """Check that the user gave the password within the last ten minutes.

    Services call it, so that it holds for pages and API alike.

    raises: FreshLoginRequired
    """
    if not principal.is_recently_authenticated:
        raise FreshLoginRequired


def require_verified_email(principal: Principal) -> None:
    """Check that the user's address is verified, when REQUIRE_VERIFIED_EMAIL is set.

    raises: EmailNotVerified
    """
    if setting("REQUIRE_VERIFIED_EMAIL") and not principal.email_verified:
        raise EmailNotVerified


_REFUSALS: Mapping[str, type[Forbidden]] = {"key": InsufficientScope, "portal": InsufficientPortalScope}


def authorize(principal: Principal, access: Access) -> None:
    """Check that a principal has the access that a view requires.

    raises: InsufficientScope for a key, InsufficientPortalScope for a portal session, NoOrganization and Forbidden for
        a user, NotFound for a page of the operator console
    """
    if access.is_for_portal and not principal.is_in_portal:
        raise NotFound
    if access.is_for_portal and access.permission is None:
        return
    if access.operator_role is not None:
        if not has_operator_role(principal, access.operator_role):
            raise NotFound
        return
    if access.permission is not None and not principal.has_organization:
        raise NoOrganization
    permission = access.scope if principal.kind == "key" and access.scope else access.permission
    if not has_permission(principal, permission):
        raise _REFUSALS.get(principal.kind, Forbidden)
