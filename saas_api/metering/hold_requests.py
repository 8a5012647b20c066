"""Requests of services for holds: the key or organization, what it may do, its limits, and the refusals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from saas_api.api_keys import key_format, keys
from saas_api.core import crypto
from saas_api.core.access import InsufficientScope
from saas_api.core.errors import ApiError, Forbidden, PaymentRequired, TooManyRequests, Unauthenticated
from saas_api.core.limits import limiter
from saas_api.core.limits.limiter import LimitRequest
from saas_api.core.settings import setting
from saas_api.metering import holds, key_principals, limits
from saas_api.metering.key_principals import KeyPrincipal
from saas_api.metering.models import Hold
from saas_api.usage.ledger import MeteredUsage
from saas_api.usage.meter_file import MeterContent

LoadPrincipal = Callable[[bool], KeyPrincipal]
"""Loads a principal and checks what it may do; reads it from PostgreSQL when the argument is true."""


class CustomerKeyNotFound(Unauthenticated):
    """The customer's API key is unknown, revoked or expired: one answer."""

    code, message = "NOT_FOUND", "There is no such API key."


class RateLimited(TooManyRequests):
    """The rate limit of the customer's organization or API key is used up."""

    code, message = "RATE_LIMITED", "The rate limit is used up; wait and try again."


@dataclass(frozen=True)
class HoldRequest:
    """What a service asks to hold.

    key: API key of the customer; None with `organization_id`
    permission: scope that the key needs
    ip: address of the customer, which the networks of the key are compared with
    quantity: the most that the call may come to, in the meter's unit
    seconds: until the hold expires
    event_id: idempotency key of the usage
    """

    meter: MeterContent
    quantity: Decimal
    seconds: int
    key: str | None = None
    organization_id: UUID | None = None
    permission: str | None = None
    ip: str | None = None
    dimensions: Mapping[str, Any] = field(default_factory=dict)
    event_id: str | None = None
    endpoint: str | None = None


def request_hold(service_name: str, request: HoldRequest) -> Hold:
    """Decide on a hold by key and limits, and store it, in transactions of its own.

    returns: the new hold; the one that the service has stored with this `event_id` before
    raises: CustomerKeyNotFound, OrganizationNotFound; InsufficientScope, IpNotAllowed, OrganizationSuspended,
        SubscriptionRestricted; RateLimited, QuotaExceeded, SpendCapReached; InvalidQuantity; ServiceUnavailable
    """
    usage = holds.held_usage(request.meter, request.quantity, request.dimensions)
    load = _principal_loader(request)
    principal = load(False)
    try:
        call, principal = _decide(principal, usage, load)
    except ApiError:
        repeated = holds.find_repeated_hold(principal.organization_id, service_name, request.event_id)
        if repeated is None:
            raise
        return repeated
    if request.key is not None:
        keys.mark_used(principal.organization_id, principal.id)
    return holds.create_hold(
        principal,
        service_name,
        usage,
        request.seconds,
        event_id=request.event_id,
        endpoint=request.endpoint,
        call=call,
    )


def _decide(principal: KeyPrincipal, usage: MeteredUsage, load: LoadPrincipal) -> tuple[LimitRequest, KeyPrincipal]:
    call = limits.build_limit_request(principal, 0, [usage])
    limiter.decide(call)
    call, principal = limits.confirm_decision(call, principal, [usage], lambda: load(True))
    if call.decision is not None and call.decision.code.is_refusal:
        error = limits.limit_exceeded_error(principal, call)
        if isinstance(error, TooManyRequests) and error.code == TooManyRequests.code:
            raise RateLimited(details=error.details, retry_after=error.retry_after)
        raise error
    return call, principal


def _principal_loader(request: HoldRequest) -> LoadPrincipal:
    digests: Sequence[tuple[int, bytes]] = ()
    if request.key is not None:
        if not key_format.is_well_formed_key(request.key, setting("API_KEY_PREFIX")):
            raise CustomerKeyNotFound
        digests = crypto.keyed_digests(request.key)

    def find(is_fresh: bool) -> KeyPrincipal:
        if request.organization_id is not None:
            return key_principals.get_organization_principal(request.organization_id, is_fresh=is_fresh)
        principal = key_principals.find_principal(digests, is_fresh=is_fresh)
        if principal is None:
            raise CustomerKeyNotFound
        return principal

    def load(is_fresh: bool) -> KeyPrincipal:
        principal = find(is_fresh)
        try:
            _check(principal, request)
        except (Forbidden, PaymentRequired):
            if is_fresh:
                raise
            if principal.windows:
                key_principals.hit_denied_limit(principal)
            principal = find(True)  # the cached one may be older than a change that allows it
            _check(principal, request)
        return principal

    return load


def _check(principal: KeyPrincipal, request: HoldRequest) -> None:
    key_principals.check_key(principal, request.ip, is_metered=True)
    if request.key is not None and request.permission is not None and request.permission not in principal.scopes:
        raise InsufficientScope
