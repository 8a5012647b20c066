"""The API key or bearer token of a request."""

from collections.abc import Sequence

from flask import request
from limits import parse as parse_limit

from saas_api.accounts.sessions import TokenMalformed
from saas_api.api_keys import key_format
from saas_api.api_keys.secrets import InvalidApiKey, MissingApiKey
from saas_api.core import request_context
from saas_api.core.access import Access
from saas_api.core.errors import BadRequest, Unauthenticated
from saas_api.core.limits import limiter
from saas_api.core.settings import setting
from saas_api.metering import key_principals, refusals
from saas_api.metering.key_principals import KeyPrincipal
from saas_api.services import catalogue, service_tokens, token_format
from saas_api.services.service_tokens import InvalidServiceToken, ServicePrincipal

UNKNOWN_KEYS_PER_MINUTE = 30
_UNKNOWN_KEY_LIMIT = parse_limit(f"{UNKNOWN_KEYS_PER_MINUTE} per minute")


def read_credential(view_access: Access) -> tuple[str, str]:
    """The credential of this request.

    returns: "key" with an API key, or "user" with an access token; only their format is checked
    raises: BadRequest for two credentials, Unauthenticated, MissingApiKey, InvalidApiKey, TokenMalformed,
        InvalidServiceToken for a service token, which other endpoints take
    """
    key, header = (request.environ.get(name) for name in ("HTTP_X_API_KEY", "HTTP_AUTHORIZATION"))
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


def is_operator_call(view_access: Access) -> bool:
    """Whether a call of an endpoint for services and operators has the access token of a user."""
    return view_access.operator_role is not None and "." in request.environ.get("HTTP_AUTHORIZATION", "")


def authenticate_service(view_access: Access) -> ServicePrincipal:
    """The service whose token this request sends; a revocation holds unless the view compares the generation itself.

    raises: InvalidServiceToken
    """
    scheme, _, token = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidServiceToken
    token, address = token.strip(), request_context.client_ip()
    if view_access.is_generation_compared:
        return service_tokens.authenticate_from_cache(token, address)
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
    principal = key_principals.find_principal(digests, is_fresh=is_fresh)
    if principal is None:  # counted after the search, so that one wrong key does not stop the good ones beside it
        if not limiter.limiter.limiter.hit(_UNKNOWN_KEY_LIMIT, request_context.client_network(), "unknown-key"):
            raise refusals.rate_limit_error(UNKNOWN_KEYS_PER_MINUTE, 60, 60, "address")
        raise InvalidApiKey
    return principal
