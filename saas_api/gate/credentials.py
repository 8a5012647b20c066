"""API key or bearer token of a request, cached principals, authorize_caller."""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flask import request
from limits import parse as parse_limit

from saas_api.accounts.sessions import TokenMalformed
from saas_api.api_keys import key_format, secrets
from saas_api.api_keys.secrets import InvalidApiKey, MissingApiKey
from saas_api.billing import periods, terms
from saas_api.billing.terms import ServiceTerms
from saas_api.core import access, clock, request_context
from saas_api.core.access import Access, Principal
from saas_api.core.db import tenancy
from saas_api.core.errors import BadRequest, Forbidden, NotFound, PaymentRequired, Unauthenticated
from saas_api.core.limits import limiter
from saas_api.core.settings import setting
from saas_api.gate import responses
from saas_api.webhooks import events

CACHE_SECONDS, CACHE_SECONDS_WITHOUT_REDIS = 60, 5
SAFE_METHODS = ("GET", "HEAD")
MAX_CACHED_KEYS = 20_000
MAX_CACHED_UNKNOWN_KEYS = parse_limit("30 per minute")


class IpNotAllowed(Forbidden):
    """The key is bound to other addresses."""

    code, message = "IP_NOT_ALLOWED", "This API key may not be used from your address."


class OrganizationSuspended(Forbidden):
    """The operator or an unpaid bill stopped the organization."""

    code = "ORGANIZATION_SUSPENDED"
    message = "This organization is suspended; if invoices are overdue, paying them ends that at once."


class SendingRestricted(PaymentRequired):
    """An invoice is overdue: reading goes on, sending does not."""

    code, message = "SUBSCRIPTION_RESTRICTED", "An invoice is overdue; pay it to send again."


@dataclass(frozen=True)
class KeyPrincipal(Principal):
    """The holder of a key, with what PostgreSQL said of its organization when it was loaded.

    is_told: an endpoint asks to be told of every accepted message
    """

    terms: ServiceTerms | None = None
    windows: Sequence[tuple[int, int]] = ()
    ip_allow: Sequence[str] = ()
    valid_until: datetime | None = None
    loaded_at: float = 0.0
    is_told: bool = False


@dataclass
class _CachedPrincipal:
    """Principals by digest, the least recently used forgotten first."""

    limit: int
    entries: OrderedDict[bytes, KeyPrincipal] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, digest: bytes) -> KeyPrincipal | None:
        with self.lock:
            found = self.entries.get(digest)
            if found is not None:
                self.entries.move_to_end(digest)
            return found

    def keep(self, digest: bytes, principal: KeyPrincipal) -> None:
        with self.lock:
            self.entries[digest] = principal
            if len(self.entries) > self.limit:
                self.entries.popitem(last=False)

    def forget(self, digest: bytes) -> None:
        with self.lock:
            self.entries.pop(digest, None)


_cache = _CachedPrincipal(MAX_CACHED_KEYS)


def read_credential(asked: Access) -> tuple[str, str]:
    """The one credential of this request, and whether it is a "key" or a "user"'s token.

    raises: Malformed, Unauthenticated, MissingApiKey, InvalidApiKey, InvalidTokenFormat
    """
    key, header = request.headers.get("X-API-Key"), request.headers.get("Authorization")
    if key and header:
        raise BadRequest("Send one credential: X-API-Key or Authorization.")
    if not key and not header:
        raise Unauthenticated if asked.is_open_to_people else MissingApiKey
    if header:
        scheme, _, offered = header.partition(" ")
        offered = offered.strip()
        if scheme.lower() != "bearer" or not offered:
            raise TokenMalformed
        if not key_format.has_key_prefix(offered):
            return _bearer(asked, offered)
        key = offered
    if not key_format.is_well_formed_key(key or "", setting("API_KEY_PREFIX")):
        raise InvalidApiKey
    return "key", key or ""


def _bearer(asked: Access, token: str) -> tuple[str, str]:
    if not asked.is_open_to_people:
        raise MissingApiKey
    if token.count(".") != 2:
        raise TokenMalformed
    return "user", token


def load_key_principal(digests: Sequence[tuple[int, bytes]], *, is_fresh: bool = False) -> KeyPrincipal:
    """The holder of a key, remembered or read anew.

    raises: InvalidApiKey, TooManyRequests for the 31st unknown key a minute from one address
    """
    digest = digests[0][1]
    known = _cache.find(digest)
    limit = CACHE_SECONDS_WITHOUT_REDIS if limiter.get_storage().is_open else CACHE_SECONDS
    if known and not is_fresh and principal_age_seconds(known) < limit and _is_valid(known):
        return known
    if not limiter.limiter.limiter.test(MAX_CACHED_UNKNOWN_KEYS, request_context.client_ip(), "unknown-key"):
        raise responses.to_error(MAX_CACHED_UNKNOWN_KEYS.amount, 60, 60, "address")
    principal = _key_principal(digests)
    if principal is None:
        _cache.forget(digest)
        limiter.limiter.limiter.hit(MAX_CACHED_UNKNOWN_KEYS, request_context.client_ip(), "unknown-key")
        raise InvalidApiKey
    _cache.keep(digest, principal)
    return principal


def _is_valid(principal: KeyPrincipal) -> bool:
    return principal.valid_until is None or clock.now() < principal.valid_until


def _key_principal(digests: Sequence[tuple[int, bytes]]) -> KeyPrincipal | None:
    loaded_at = time.monotonic()
    with tenancy.system_session("gate.key") as session:
        secret = secrets.find_active_secret(session, digests)
        if secret is None:
            return None
        periods.ensure_account(session, secret.organization_id)
        service_terms = terms.get_terms(session, secret.organization_id)
        is_told = events.has_explicit_subscriber(session, secret.organization_id, "message.accepted")
    windows = [(service_terms.rate_limit_per_minute, 60_000)]
    if secret.rate_limit_per_minute:
        windows.append((secret.rate_limit_per_minute, 60_000))
    ends = [end for end in (secret.expires_at, service_terms.period_ends_at) if end is not None]
    return KeyPrincipal(
        kind="key",
        id=secret.key_id,
        organization_id=secret.organization_id,
        scopes=secret.scopes,
        mode=secret.mode,
        terms=service_terms,
        windows=tuple(windows),
        ip_allow=secret.ip_allow,
        valid_until=min(ends),
        loaded_at=loaded_at,
        is_told=is_told,
    )


def authorize_caller(principal: Principal, asked: Access) -> None:
    """Let a caller pass by organization, address, and scope or role.

    raises: OrganizationSuspended, IpNotAllowed, SubscriptionRestricted, InsufficientScope, Forbidden
    """
    if isinstance(principal, KeyPrincipal) and principal.terms is not None:
        terms = principal.terms
        if "suspended" in (terms.organization_status, terms.standing) or terms.organization_status == "closed":
            raise OrganizationSuspended
        if principal.ip_allow and not _is_allowed(request_context.client_ip(), principal.ip_allow):
            raise IpNotAllowed
        if terms.standing == "restricted" and asked.is_metered:
            raise SendingRestricted
    if principal.is_impersonating and request.method not in SAFE_METHODS and request.endpoint != "accounts.logout":
        raise Forbidden("You are looking at this organization; nothing can be changed.")
    if asked.operator_role is not None and not is_console_address_allowed(request_context.client_ip()):
        raise NotFound
    access.authorize(principal, asked)


def is_console_address_allowed(address: str) -> bool:
    """Whether the console is shown to an address (ADMIN_ALLOWED_IPS)."""
    networks = setting("ADMIN_ALLOWED_IPS")
    return not networks or _is_allowed(address, networks)


def _is_allowed(address: str, networks: Sequence[str]) -> bool:
    if address == "invalid":
        return False
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)


def principal_age_seconds(principal: KeyPrincipal) -> float:
    """Seconds since a principal was read from PostgreSQL."""
    return time.monotonic() - principal.loaded_at
