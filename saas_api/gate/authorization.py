"""Authorization of the caller: organization, network address, impersonation, and scope or role."""

from flask import request

from saas_api.accounts.organizations import PERMITTED_WHEN_CLOSED, OrganizationClosed
from saas_api.core import access, networks, request_context
from saas_api.core.access import Access, InsufficientPortalScope, Principal
from saas_api.core.errors import Forbidden, NotFound
from saas_api.core.settings import setting
from saas_api.core.web import http
from saas_api.metering import key_principals
from saas_api.metering.key_principals import KeyPrincipal
from saas_api.portal import scopes

_LOGOUT_ENDPOINT = "accounts.logout"


def authorize_caller(principal: Principal, view_access: Access) -> None:
    """Check that a principal may make this request: organization, address, impersonation, then scope or role.

    raises: OrganizationSuspended, OrganizationClosed, IpNotAllowed, SubscriptionRestricted, InsufficientScope,
        InsufficientPortalScope, Forbidden, NotFound
    """
    if isinstance(principal, KeyPrincipal):
        key_principals.check_key(principal, request_context.client_ip(), is_metered=view_access.is_metered)
    if principal.is_organization_closed and view_access.operator_role is None:
        _check_closed(view_access)
    if principal.is_impersonating and request.endpoint != _LOGOUT_ENDPOINT:
        _check_impersonation()
    if principal.is_in_portal and not view_access.is_for_portal and not scopes.is_in_portal(request.endpoint or ""):
        raise InsufficientPortalScope
    if view_access.operator_role is not None and not is_console_address_allowed(request_context.client_ip()):
        raise NotFound
    access.authorize(principal, view_access)


def _check_closed(view_access: Access) -> None:
    """Members of a closed organization read, pay and change invoice details; their own account stays theirs."""
    if request.method not in http.SAFE_METHODS and view_access.permission not in PERMITTED_WHEN_CLOSED:
        raise OrganizationClosed


def _check_impersonation() -> None:
    if request.method not in http.SAFE_METHODS:
        raise Forbidden("You are looking at this organization; nothing can be changed.")
    if not is_console_address_allowed(request_context.client_ip()):
        raise Forbidden("Operators may not look at an organization from your address.")


def is_console_address_allowed(address: str) -> bool:
    """Whether operators may act from an address (ADMIN_ALLOWED_IPS; empty allows all)."""
    allowed = setting("ADMIN_ALLOWED_IPS")
    return not allowed or networks.is_in_networks(address, allowed)
