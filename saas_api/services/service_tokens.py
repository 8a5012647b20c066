"""Service tokens: creation, and authentication from a cache of every active token."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import sqlalchemy as sa

from saas_api.core import clock, crypto, networks
from saas_api.core.db import tenancy
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Unauthenticated
from saas_api.services import catalogue, token_format
from saas_api.services.catalogue import CachedCatalogue
from saas_api.services.models import Service, ServiceToken

T = TypeVar("T")


class InvalidServiceToken(Unauthenticated):
    """Missing, malformed, unknown, revoked, expired, from a network that the service may not use: one answer."""

    code, message = "INVALID_SERVICE_TOKEN", "Send a valid service token: Authorization: Bearer svc_..."


@dataclass(frozen=True)
class ServicePrincipal:
    """The authenticated service of a call.

    allowed_ips: networks that may use its tokens; empty allows all
    generation: of the catalogue from which it was authenticated; a higher one in Redis means that it may have ended
    """

    token_id: UUID
    service_id: UUID
    name: str
    allowed_ips: Sequence[str]
    generation: int


@dataclass(frozen=True)
class ActiveToken:
    """A token of a service, neither of which is revoked.

    portal_origins: of the service, see `models.Service`
    """

    id: UUID
    service_id: UUID
    service_name: str
    allowed_ips: Sequence[str]
    portal_origins: Sequence[str]
    pepper_version: int
    expires_at: datetime | None

    @property
    def has_expired(self) -> bool:
        """Whether its grace period after a rotation is over."""
        return self.expires_at is not None and self.expires_at <= clock.now()


def _load_active_tokens(session: SystemSession) -> Mapping[bytes, ActiveToken]:
    statement = (
        sa.select(ServiceToken, Service)
        .join(Service, Service.id == ServiceToken.service_id)
        .where(ServiceToken.revoked_at.is_(None), Service.revoked_at.is_(None))
    )
    return {
        token.digest: ActiveToken(
            token.id,
            service.id,
            service.name,
            tuple(service.allowed_ips),
            tuple(service.portal_origins),
            token.pepper_version,
            token.expires_at,
        )
        for token, service in session.execute(statement)
    }


_active_tokens: CachedCatalogue[Mapping[bytes, ActiveToken]] = CachedCatalogue(_load_active_tokens)


def authenticate(token: str, address: str, generation: int | None = None) -> ServicePrincipal:
    """The service of a token.

    address: of the caller, as `request_context.client_ip` returns it
    generation: that Redis has, from `catalogue.read_generation` or the caller's own round trip; without it the answer
        may be CACHE_SECONDS old, and the caller compares `ServicePrincipal.generation` before it acts on it
    raises: InvalidServiceToken
    """
    if not token_format.is_well_formed_token(token):
        raise InvalidServiceToken
    digests = crypto.keyed_digests(token)
    entry = _active_tokens.get_entry(generation)
    found = next((entry.value[digest] for _, digest in digests if digest in entry.value), None)
    if found is None or found.has_expired:
        raise InvalidServiceToken
    if found.allowed_ips and not networks.is_in_networks(address, found.allowed_ips):
        raise InvalidServiceToken
    if found.pepper_version != digests[0][0]:
        _renew_digest(found.id, *digests[0])
    return ServicePrincipal(found.id, found.service_id, found.service_name, found.allowed_ips, entry.generation)


def find_active(token_id: UUID, generation: int | None) -> ActiveToken | None:
    """A token by its id; None when it was revoked or has expired.

    generation: as for `authenticate`
    """
    tokens = _active_tokens.get(generation).values()
    return next((token for token in tokens if token.id == token_id and not token.has_expired), None)


def authenticate_from_cache(token: str, address: str) -> ServicePrincipal:
    """The service of a token, for a caller that calls `confirm` before it acts on it.

    raises: InvalidServiceToken
    """
    try:
        return authenticate(token, address)
    except InvalidServiceToken:  # a new token is not in the cache yet
        return authenticate(token, address, catalogue.read_generation())


class CatalogueChanged(Exception):
    """The catalogue has changed since a service was authenticated; `service` has the generation to begin again with."""

    def __init__(self, service: ServicePrincipal) -> None:
        super().__init__()
        self.service = service


def confirm(service: ServicePrincipal, generation: int | None) -> None:
    """Check that neither the token of an authenticated service nor the rest of the catalogue has changed meanwhile.

    generation: that Redis has now; None when it does not answer, so that the cache decides
    raises: InvalidServiceToken; CatalogueChanged, which `run_with_current_catalogue` handles
    """
    entry = _active_tokens.get_entry(generation)
    if entry.generation <= service.generation:
        return
    if all(token.id != service.token_id for token in entry.value.values()):
        raise InvalidServiceToken
    raise CatalogueChanged(replace(service, generation=entry.generation))


def run_with_current_catalogue(service: ServicePrincipal, call: Callable[[ServicePrincipal], T]) -> T:
    """The result of a call that uses the catalogue of `service.generation` and `confirm` before it has any effect."""
    while True:
        try:
            return call(service)
        except CatalogueChanged as change:
            service = change.service


def _renew_digest(token_id: UUID, pepper_version: int, digest: bytes) -> None:
    """Store the digest of a token under the current pepper; other processes still find it under the old one."""
    with tenancy.system_session("services.tokens") as session:
        renewal = sa.update(ServiceToken).filter_by(id=token_id).values(digest=digest, pepper_version=pepper_version)
        session.execute(renewal)
    _active_tokens.clear()


def create_token(session: SystemSession, service_id: UUID, slot: int) -> tuple[ServiceToken, str]:
    """Create a token of a service.

    slot: 1 or 2, not that of a token that is not revoked
    returns: the record and the token, which is not stored
    raises: IntegrityError when the slot is taken
    """
    token = token_format.generate_token()
    version, digest = crypto.keyed_digests(token)[0]
    record = ServiceToken(
        service_id=service_id,
        slot=slot,
        digest=digest,
        pepper_version=version,
        hint=token_format.token_hint(token),
        created_at=clock.now(),
    )
    session.add(record)
    session.flush()  # fails here when another transaction has taken the slot
    return record, token


def count_by_pepper(session: SystemSession) -> dict[int, int]:
    """Number of active tokens by the version of the pepper that their digest has."""
    counts: dict[int, int] = {}
    now = clock.now()
    for token in _load_active_tokens(session).values():
        if token.expires_at is None or token.expires_at > now:
            counts[token.pepper_version] = counts.get(token.pepper_version, 0) + 1
    return counts
