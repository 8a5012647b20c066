"""Errors with which a metered call is refused."""

from saas_api.core.access import InsufficientScope
from saas_api.core.errors import Forbidden, PaymentRequired, TooManyRequests, Unauthenticated


class IpNotAllowed(Forbidden):
    """The key is restricted to other addresses."""

    code, message = "IP_NOT_ALLOWED", "This API key may not be used from your address."


class OrganizationSuspended(Forbidden):
    """An operator or an overdue invoice has suspended the organization."""

    code = "ORGANIZATION_SUSPENDED"
    message = "This organization is suspended; if invoices are overdue, paying them ends that at once."


class SubscriptionRestricted(PaymentRequired):
    """An invoice is overdue: metered calls are refused, others still work."""

    code, message = "SUBSCRIPTION_RESTRICTED", "An invoice is overdue; pay it to go on."


class QuotaExceeded(TooManyRequests):
    """The quota of a meter is used up for the billing period."""

    code, message = "QUOTA_EXCEEDED", "The quota of this billing period is used up."


class SpendCapReached(PaymentRequired):
    """The call would exceed the spend cap of the billing period."""

    code, message = "SPEND_CAP_REACHED", "The spend cap of this billing period is reached; raise it to go on."


ALL = (InsufficientScope, IpNotAllowed, OrganizationSuspended, SubscriptionRestricted, QuotaExceeded, SpendCapReached)
"""Refusals whose code is that of a verification; that of an exceeded rate limit is RATE_LIMITED there."""


class CustomerKeyNotFound(Unauthenticated):
    """A service names an API key that is unknown, revoked or expired: one answer."""

    code, message = "NOT_FOUND", "There is no such API key."


class RateLimited(TooManyRequests):
    """The rate limit of the customer whom a service names is used up, that of the organization or of the key."""

    code, message = "RATE_LIMITED", "The customer's rate limit is used up; wait and try again."


def rate_limit_error(limit: int, window_seconds: int, wait_seconds: int, scope: str) -> TooManyRequests:
    """The error of an exceeded rate limit.

    limit: requests in a window
    wait_seconds: until the request passes, rounded up
    scope: "organization", "key", "user" or "address"
    """
    details = {
        "limit": limit,
        "window_seconds": window_seconds,
        "retry_after_seconds": wait_seconds,
        "scope": scope,
    }
    return TooManyRequests(details=details, retry_after=wait_seconds)
