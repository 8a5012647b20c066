"""The API key or bearer token of a request, and the cached principal of a key."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from flask import request
from limits import parse as parse_limit

from saas_api.accounts.sessions import TokenMalformed
from saas_api.api_keys import key_format, secrets
from saas_api.api_keys.secrets import InvalidApiKey, MissingApiKey
from saas_api.billing import periods, service_terms
from saas_api.billing.service_terms import ServiceTerms
from saas_api.core import clock, request_context
from saas_api.core.access import Access, Principal
from saas_api.core.db import tenancy
from saas_api.core.errors import BadRequest, Unauthenticated
from saas_api.core.limits import limiter
from saas_api.core.settings import setting
from saas_api.gate import responses
from saas_api.gate.cache import LruCache
from saas_api.services import catalogue, service_tokens, token_format
from saas_api.services.service_tokens import InvalidServiceToken, ServicePrincipal
from saas_api.webhooks import events

CACHE_SECONDS, CACHE_SECONDS_WITHOUT_REDIS = 60, 5
MAX_CACHED_KEYS = 20_000
UNKNOWN_KEYS_PER_MINUTE = 30
_UNKNOWN_KEY_LIMIT = parse_limit(f"{UNKNOWN_KEYS_PER_MINUTE} per minute")


@dataclass(frozen=True)
class KeyPrincipal(Principal):
    """The principal of an API key, with the terms of its organization when it was loaded.

    windows: (requests, milliseconds) of the rate limits of the organization and, if it has one, of the key
    ip_allow: networks that may use the key; empty allows all
    loaded_at: monotonic time in seconds
    has_accepted_subscriber: an endpoint has explicitly subscribed to message.accepted
    """

    terms: ServiceTerms | None = None
    windows: Sequence[tuple[int, int]] = ()
    ip_allow: Sequence[str] = ()
    valid_until: datetime | None = None
    loaded_at: float = 0.0
    has_accepted_subscriber: bool = False


_cache: LruCache[bytes, KeyPrincipal] = LruCache(MAX_CACHED_KEYS)


def read_credential(view_access: Access) -> tuple[str, str]:
    """The credential of this request.

    returns: "key" with an API key, or "user" with an access token; only their format is checked
    raises: BadRequest for two credentials, Unauthenticated, MissingApiKey, InvalidApiKey, TokenMalformed,
        InvalidServiceToken for a service token, which other endpoints take
    """
    key, header = request.headers.get("X-API-Key"), request.headers.get("Authorization")
    if key and header:
        raise BadRequest("Send one credential: X-API-Key or Authorization.")
    if not key and not header:
        raise Unauthenticated if view_access.is_open_to_users else MissingApiKey
    if header:
        scheme, _, token = header.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise TokenMalformed
        if not key_format.has_key_prefix(token) and not token_format.is_service_token(token):
            return _user_credential(view_access, token)
        key = token
    if token_format.is_service_token(key or ""):
        raise InvalidServiceToken
    if not key_format.is_well_formed_key(key or "", setting("API_KEY_PREFIX")):
        raise InvalidApiKey
    return "key", key or ""


def authenticate_service(view_access: Access) -> ServicePrincipal:
    """The service whose token this request sends; a revocation holds unless the view compares the generation itself.

    raises: InvalidServiceToken
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidServiceToken
    token, address = token.strip(), request_context.client_ip()
    if view_access.is_generation_compared:
        with contextlib.suppress(InvalidServiceToken):  # a new token is not in the cache yet
            return service_tokens.authenticate(token, address)
    return service_tokens.authenticate(token, address, catalogue.read_generation())


def _user_credential(view_access: Access, token: str) -> tuple[str, str]:
    if not view_access.is_open_to_users:
        raise MissingApiKey
    if token.count(".") != 2:
        raise TokenMalformed
    return "user", token


def load_key_principal(digests: Sequence[tuple[int, bytes]], *, is_fresh: bool = False) -> KeyPrincipal:
    """The principal of a key, from the cache or from PostgreSQL.

    digests: of the key under every pepper, the current one first
    is_fresh: read it from PostgreSQL
    raises: InvalidApiKey; TooManyRequests for an unknown key after UNKNOWN_KEYS_PER_MINUTE from one network
    """
    digest = digests[0][1]
    cached = _cache.find(digest)
    max_age = CACHE_SECONDS_WITHOUT_REDIS if limiter.get_storage().is_open else CACHE_SECONDS
    if cached and not is_fresh and principal_age_seconds(cached) < max_age and _is_valid(cached):
        return cached
    principal = _find_key_principal(digests)
    if principal is None:  # counted after the search, so that one wrong key does not stop the good ones beside it
        _cache.remove(digest)
        if not limiter.limiter.limiter.hit(_UNKNOWN_KEY_LIMIT, request_context.client_network(), "unknown-key"):
            raise responses.rate_limit_error(UNKNOWN_KEYS_PER_MINUTE, 60, 60, "address")
        raise InvalidApiKey
    _cache.put(digest, principal)
    return principal


def _is_valid(principal: KeyPrincipal) -> bool:
    return principal.valid_until is None or clock.now() < principal.valid_until


def _find_key_principal(digests: Sequence[tuple[int, bytes]]) -> KeyPrincipal | None:
    loaded_at = time.monotonic()
    with tenancy.system_session("gate.key") as session:
        secret = secrets.find_active_secret(session, digests)
        if secret is None:
            return None
        periods.ensure_account(session, secret.organization_id)
        terms = service_terms.get_terms(session, secret.organization_id)
        has_subscriber = events.has_explicit_subscriber(session, secret.organization_id, "message.accepted")
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
        windows=tuple(windows),
        ip_allow=secret.ip_allow,
        valid_until=min(ends),
        loaded_at=loaded_at,
        has_accepted_subscriber=has_subscriber,
    )


def principal_age_seconds(principal: KeyPrincipal) -> float:
    """Seconds since the principal was read from PostgreSQL."""
    return time.monotonic() - principal.loaded_at
