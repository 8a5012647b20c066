"""The cached principal of an API key, with what its organization may use."""

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from limits import RateLimitItemPerSecond

from saas_api.accounts.models import OrganizationStatus
from saas_api.api_keys import secrets
from saas_api.billing import periods, service_terms
from saas_api.billing.models import BillingStanding
from saas_api.billing.service_terms import ServiceTerms
from saas_api.core import clock, networks
from saas_api.core.access import Principal
from saas_api.core.db import cells, tenancy
from saas_api.core.ids import NIL_UUID
from saas_api.core.limits import limiter
from saas_api.metering import refusals
from saas_api.metering.lru_cache import LruCache
from saas_api.metering.refusals import IpNotAllowed, OrganizationSuspended, SubscriptionRestricted
from saas_api.webhooks import events

CACHE_SECONDS, CACHE_SECONDS_WITHOUT_REDIS = 60, 5
MAX_CACHED_KEYS, MAX_CACHED_ORGANIZATIONS = 20_000, 5_000


@dataclass(frozen=True)
class KeyPrincipal(Principal):
    """The principal of an API key, with the terms of its organization when it was loaded.

    kind: "key", or "service" for a call of a service that names an organization and no key
    windows: (requests, milliseconds) of the rate limits of the organization and, if it has one, of the key
    ip_allow: networks that may use the key; empty allows all
    loaded_at: monotonic time in seconds
    subscribed_types: event types that a webhook endpoint names
    """

    terms: ServiceTerms | None = None
    name: str = ""
    windows: Sequence[tuple[int, int]] = ()
    ip_allow: Sequence[str] = ()
    valid_until: datetime | None = None
    loaded_at: float = 0.0
    subscribed_types: frozenset[str] = frozenset()

    @functools.cached_property
    def limit_keys(self) -> Sequence[str]:
        """Keys in Redis of the generation and of each window, the same for every call."""
        tag, owners = f"{{{self.organization_id}}}", (self.mode, self.id)
        windows = [f"{tag}:rl:{owner}:{ms}" for owner, (_, ms) in zip(owners, self.windows, strict=False)]
        return [limiter.generation_key(self.organization_id), *windows]

    @property
    def age_seconds(self) -> float:
        """Seconds since the principal was read from PostgreSQL."""
        return time.monotonic() - self.loaded_at


_cache: LruCache[bytes, KeyPrincipal] = LruCache(MAX_CACHED_KEYS)
_organizations: LruCache[UUID, KeyPrincipal] = LruCache(MAX_CACHED_ORGANIZATIONS)


def find_principal(digests: Sequence[tuple[int, bytes]], *, is_fresh: bool = False) -> KeyPrincipal | None:
    """The principal of a key, from the cache or from PostgreSQL; None for an unknown, revoked or expired key.

    digests: of the key under every pepper, the current one first
    is_fresh: read it from PostgreSQL
    """
    digest = digests[0][1]
    cached = _cache.find(digest)
    if cached and not is_fresh and _is_current(cached):
        return cached
    principal = cells.search(lambda: _load(digests), exists=lambda: _exists(digests))
    if principal is None:
        _cache.remove(digest)
    else:
        _cache.put(digest, principal)
    return principal


def get_organization_principal(organization_id: UUID, *, is_fresh: bool = False) -> KeyPrincipal:
    """The principal of a service's call for an organization, without a key: in live mode, without rate limits.

    is_fresh: read it from PostgreSQL instead of the cache
    raises: OrganizationNotFound
    """
    cached = _organizations.find(organization_id)
    if cached and not is_fresh and _is_current(cached):
        return cached
    loaded_at = time.monotonic()
    with cells.use(cells.cell_of(organization_id)), tenancy.system_session("metering.key") as session:
        terms = service_terms.get_terms(session, organization_id)
    principal = KeyPrincipal(
        kind="service",
        id=NIL_UUID,
        organization_id=organization_id,
        terms=terms,
        valid_until=terms.period_ends_at,
        loaded_at=loaded_at,
    )
    _organizations.put(organization_id, principal)
    return principal


def _is_current(principal: KeyPrincipal) -> bool:
    breaker = limiter.get_backend().breaker_of(principal.limit_keys[0])
    max_age = CACHE_SECONDS_WITHOUT_REDIS if breaker.is_open else CACHE_SECONDS
    is_valid = principal.valid_until is None or clock.now() < principal.valid_until
    return is_valid and principal.age_seconds < max_age


def _exists(digests: Sequence[tuple[int, bytes]]) -> bool:
    """Whether there is such a key in the current cell, also of an organization that is being moved."""
    with tenancy.system_session("metering.key", sees_absent=True) as session:
        return secrets.has_active_secret(session, digests)


def _load(digests: Sequence[tuple[int, bytes]]) -> KeyPrincipal | None:
    loaded_at = time.monotonic()
    with tenancy.system_session("metering.key") as session:
        secret = secrets.find_active_secret(session, digests)
        if secret is None:
            return None
        periods.ensure_account(session, secret.organization_id)
        terms = service_terms.get_terms(session, secret.organization_id)
        subscribed_types = events.list_explicit_types(session, secret.organization_id, secret.mode)
    windows = [(terms.rate_limit_per_minute, 60_000)]
    if secret.rate_limit_per_minute:
        windows.append((secret.rate_limit_per_minute, 60_000))
    ends = [end for end in (secret.expires_at, terms.period_ends_at) if end is not None]
    return KeyPrincipal(
        kind="key",
        id=secret.key_id,
        organization_id=secret.organization_id,
        scopes=secret.scopes,
        mode=secret.mode,
        terms=terms,
        name=secret.name,
        windows=tuple(windows),
        ip_allow=secret.ip_allow,
        valid_until=min(ends),
        loaded_at=loaded_at,
        subscribed_types=subscribed_types,
    )


def check_key(principal: KeyPrincipal, address: str | None, *, is_metered: bool) -> None:
    """Check what an organization and its key may do, apart from scopes and limits.

    address: of the client; None for an unknown one, which no network of a key contains
    is_metered: the call costs money, so a restricted organization may not make it
    raises: OrganizationSuspended, IpNotAllowed, SubscriptionRestricted
    """
    terms = principal.terms
    if terms is None:
        return
    if terms.organization_status != OrganizationStatus.ACTIVE or terms.standing == BillingStanding.SUSPENDED:
        raise OrganizationSuspended
    if principal.ip_allow and address is None:
        raise IpNotAllowed("This API key is bound to networks, and the address of the call is not known.")
    if principal.ip_allow and not networks.is_in_networks(str(address), principal.ip_allow):
        message = f"This API key may not be used from your address, {address}."
        raise IpNotAllowed(message, details={"address": address})
    if is_metered and terms.standing == BillingStanding.RESTRICTED:
        raise SubscriptionRestricted


def hit_denied_limit(principal: KeyPrincipal) -> None:
    """Count a call that the key may not make, against the limit of that key alone.

    raises: TooManyRequests
    """
    amount, window_ms = principal.windows[-1]
    item = RateLimitItemPerSecond(amount, window_ms // 1000)
    if not limiter.limiter.limiter.hit(item, str(principal.id), "denied"):
        stats = limiter.limiter.limiter.get_window_stats(item, str(principal.id), "denied")
        wait_seconds = max(1, math.ceil(stats.reset_time - time.time()))
        raise refusals.rate_limit_error(amount, window_ms // 1000, wait_seconds, "key")
