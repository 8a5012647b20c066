"""Services: they are created, rotated and revoked, and declare scopes, routes and an OpenAPI document."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit
from saas_api.accounts.audit import OperatorContext
from saas_api.core import clock, domain, ids
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound, ValidationFailed
from saas_api.services import catalogue, openapi_document, scopes, service_tokens
from saas_api.services.catalogue import CachedCatalogue
from saas_api.services.models import Service, ServiceRoute, ServiceToken
from saas_api.services.scopes import SCOPE_PATTERN

MAX_GRACE_SECONDS = 604_800
MAX_SCOPES = 100
MAX_PORTAL_ORIGINS = 20
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}", re.ASCII)
_HOST = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
_ORIGIN = re.compile(rf"(?:https://{_HOST}|http://(?:localhost|127\.0\.0\.1))(?::[0-9]{{1,5}})?", re.ASCII)


class ServiceNotFound(NotFound):
    """There is no such service."""

    code, message = "SERVICE_NOT_FOUND", "There is no such service."


class ServiceNameTaken(Conflict):
    """A service, also a revoked one, or a part of this application has the name."""

    code, message = "SERVICE_NAME_TAKEN", "This name is taken; choose another."
    constraint = "services_name_key"


class ServiceRevoked(Conflict):
    """The service was revoked; a new one takes its place."""

    code, message = "SERVICE_REVOKED", "This service was revoked; create another."


class ServiceRotationInProgress(Conflict):
    """Two tokens of the service are live already; the old one has to end first."""

    code = "SERVICE_ROTATION_IN_PROGRESS"
    message = "The old token of this service is still valid; wait for its end, or rotate with grace 0."
    constraint = "service_tokens_slot"


class InvalidOpenApiDocument(ValidationFailed):
    """The reference shows OpenAPI 3.0 and 3.1 documents of up to 1 MB that refer to no other document."""

    code = "INVALID_OPENAPI_DOCUMENT"
    message = "The reference cannot show this document."


@dataclass(frozen=True)
class IssuedToken:
    """A service with its new token, which is not stored.

    is_rotation: the service had a token before
    ends_at: when the previous token ends; None when it has ended
    """

    service: Service
    token: str
    is_rotation: bool = False
    ends_at: datetime | None = None


def create_service(
    session: SystemSession,
    operator: OperatorContext,
    name: str,
    *,
    allowed_ips: Sequence[str] = (),
    scopes: Sequence[str] = (),
) -> IssuedToken:
    """Create a service with its first token.

    name: 1 to 40 lower-case letters, digits, "_" and "-", beginning with a letter
    allowed_ips: networks as `networks.parse_network` writes them; empty allows all
    scopes: `resource:verb`, beside NAME:read and NAME:write
    raises: ValidationFailed, ServiceNameTaken
    """
    if not _NAME.fullmatch(name):
        raise ValidationFailed.at_field(
            "name", "Write 1 to 40 lower-case letters, digits, _ and -, beginning with a letter."
        )
    if name in _built_in_names() or session.scalar(sa.select(Service.id).filter_by(name=name)):
        raise ServiceNameTaken
    service = Service(
        id=ids.new_id(),
        name=name,
        allowed_ips=list(allowed_ips),
        scopes=check_scopes("scopes", scopes),
        is_open=False,
        created_at=clock.now(),
    )
    session.add(service)
    session.flush()  # the token refers to it
    _, token = service_tokens.create_token(session, service.id, 1)
    record_change(session, service, operator, "created", {"allowed_ips": service.allowed_ips, "scopes": service.scopes})
    catalogue.bump(session)
    return IssuedToken(service, token)


def get_service(session: SystemSession, name: str) -> Service:
    """A service, also a revoked one.

    raises: ServiceNotFound
    """
    service = session.scalar(sa.select(Service).filter_by(name=name))
    if service is None:
        raise ServiceNotFound(details={"name": name})
    return service


def list_services(session: SystemSession) -> Sequence[Service]:
    """Every service, also the revoked ones, by name."""
    return session.scalars(sa.select(Service).order_by(Service.name)).all()


def list_active_tokens(session: SystemSession, service_id: UUID) -> Sequence[ServiceToken]:
    """Valid tokens of a service, the newest first."""
    unrevoked = sa.select(ServiceToken).filter_by(service_id=service_id, revoked_at=None)
    newest_first = unrevoked.order_by(ServiceToken.created_at.desc()).execution_options(populate_existing=True)
    now = clock.now()
    return [token for token in session.scalars(newest_first) if token.expires_at is None or token.expires_at > now]


def rotate_token(session: SystemSession, name: str, operator: OperatorContext, grace_seconds: int) -> IssuedToken:
    """Give a service a new token.

    grace_seconds: 0 to 604,800; how long the previous token stays valid; 0 revokes every earlier one at once
    raises: ServiceNotFound, ServiceRevoked, ServiceRotationInProgress, ValidationFailed
    """
    if not 0 <= grace_seconds <= MAX_GRACE_SECONDS:
        raise ValidationFailed.at_field("grace_seconds", f"Must lie between 0 and {MAX_GRACE_SECONDS}.")
    service = lock_service(session, name)
    now = clock.now()
    active = list_active_tokens(session, service.id)
    if len(active) > 1 and grace_seconds > 0:
        raise ServiceRotationInProgress
    ended = sa.update(ServiceToken).filter_by(service_id=service.id, revoked_at=None)
    if grace_seconds > 0:
        ended = ended.where(ServiceToken.expires_at <= now)
    session.execute(ended.values(revoked_at=now))  # frees the slots
    ends_at = now + timedelta(seconds=grace_seconds) if active and grace_seconds > 0 else None
    if ends_at is not None:
        active[0].expires_at = ends_at
    slot = 3 - active[0].slot if active else 1
    record, token = service_tokens.create_token(session, service.id, slot)
    data = {"grace_seconds": grace_seconds, "old_hint": active[0].hint if active else None, "hint": record.hint}
    record_change(session, service, operator, "rotated", data)
    catalogue.bump(session)
    return IssuedToken(service, token, is_rotation=True, ends_at=ends_at)


def revoke_service(session: SystemSession, name: str, operator: OperatorContext) -> Service:
    """Revoke a service: its next call is refused in every process. A repeat changes nothing.

    raises: ServiceNotFound
    """
    service = lock_service(session, name, is_revoked_allowed=True)
    if service.revoked_at is None:
        service.revoked_at = clock.now()
        tokens = sa.update(ServiceToken).filter_by(service_id=service.id, revoked_at=None)
        session.execute(tokens.values(revoked_at=service.revoked_at))
        record_change(session, service, operator, "revoked", {})
        catalogue.bump(session)
    return service


def set_scopes(session: SystemSession, name: str, operator: OperatorContext, scopes: Sequence[str]) -> Service:
    """Replace the scopes of a service beside NAME:read, NAME:write and those of its routes.

    raises: ServiceNotFound, ServiceRevoked, ValidationFailed
    """
    service = lock_service(session, name)
    before, service.scopes = list(service.scopes), check_scopes("scopes", scopes)
    record_change(
        session, service, operator, "changed", {"before": {"scopes": before}, "after": {"scopes": service.scopes}}
    )
    catalogue.bump(session)
    return service


def set_portal_origins(session: SystemSession, name: str, operator: OperatorContext, origins: Sequence[str]) -> Service:
    """Replace the origins that may embed the customer portal, and to which its sessions may lead back.

    origins: such as "https://app.example.com"; http for this machine only
    raises: ServiceNotFound, ServiceRevoked, ValidationFailed
    """
    service = lock_service(session, name)
    chosen = sorted(set(origins))
    problems = [
        ("origins", f"{origin}: write an origin in lower case, such as https://app.example.com.")
        for origin in chosen
        if not _ORIGIN.fullmatch(origin)
    ]
    if len(chosen) > MAX_PORTAL_ORIGINS:
        problems.append(("origins", f"At most {MAX_PORTAL_ORIGINS}."))
    if problems:
        raise ValidationFailed.from_fields(problems)
    before, service.portal_origins = list(service.portal_origins), chosen
    record_change(
        session,
        service,
        operator,
        "portal_changed",
        {"before": {"portal_origins": before}, "after": {"portal_origins": chosen}},
    )
    catalogue.bump(session)
    return service


def set_openapi(session: SystemSession, name: str, operator: OperatorContext, document: Any) -> Service:
    """Set or, with None, remove the OpenAPI document of a service.

    document: JSON-ready
    raises: ServiceNotFound, ServiceRevoked, InvalidOpenApiDocument
    """
    service = lock_service(session, name)
    if document is not None and (problems := openapi_document.find_problems(document)):
        reasons = [f"{pointer}: {reason}".removeprefix(": ") for pointer, reason in problems]
        raise InvalidOpenApiDocument(" ".join([InvalidOpenApiDocument.message, *reasons]))
    service.openapi = dict(document) if document is not None else None
    title = document["info"].get("title") if document is not None else None
    record_change(session, service, operator, "openapi_changed", {"title": title})
    catalogue.bump(session)
    return service


def list_documented(session: Session) -> Sequence[str]:
    """Names of the services with an OpenAPI document, sorted; readable in any session."""
    documented = sa.select(Service.name).where(Service.openapi.is_not(None), Service.revoked_at.is_(None))
    return session.scalars(documented.order_by(Service.name)).all()


def get_openapi(session: Session, name: str) -> dict[str, Any]:
    """The OpenAPI document of a service; readable in any session.

    raises: ServiceNotFound, also for a service without a document
    """
    found = sa.select(Service.openapi).filter_by(name=name, revoked_at=None)
    document: dict[str, Any] | None = None if "\0" in name else session.scalar(found)  # PostgreSQL has no NUL
    if document is None:
        raise ServiceNotFound(details={"name": name})
    return document


def list_scopes(session: Session) -> Mapping[str, Sequence[str]]:
    """Scopes of every service that is not revoked, by its name; readable in a session of an organization."""
    declared: defaultdict[str, set[str]] = defaultdict(set)
    statement = (
        sa.select(Service.name, Service.scopes, ServiceRoute.permission)
        .outerjoin(ServiceRoute, ServiceRoute.service_id == Service.id)
        .where(Service.revoked_at.is_(None))
        .order_by(Service.name)
        .distinct()
    )
    for row in session.execute(statement):
        declared[row.name].update(row.scopes, [row.permission] if row.permission else [])
    return {name: scopes.scopes_of(name, names) for name, names in declared.items()}


_scopes_by_service: CachedCatalogue[Mapping[str, Sequence[str]]] = CachedCatalogue(list_scopes)


def cached_scopes(generation: int | None) -> Mapping[str, Sequence[str]]:
    """As `list_scopes`, from a cache of this process.

    generation: as for `CachedCatalogue.get_entry`
    """
    return _scopes_by_service.get(generation)


def check_scopes(field: str, names: Iterable[str]) -> list[str]:
    """The scopes sorted, each once.

    field: of the request, for errors
    raises: ValidationFailed for another form, too many, or a scope of this application
    """
    chosen, built_in = sorted(set(names)), _built_in_names()
    problems = [(field, f"{scope}: write resource:verb in lower case.") for scope in chosen if not _is_scope(scope)]
    problems += [
        (field, f"{scope}: this application has scopes of that resource.")
        for scope in chosen
        if _is_scope(scope) and scope.partition(":")[0] in built_in
    ]
    if len(chosen) > MAX_SCOPES:
        problems.append((field, f"At most {MAX_SCOPES}."))
    if problems:
        raise ValidationFailed.from_fields(problems)
    return chosen


def _is_scope(name: str) -> bool:
    return SCOPE_PATTERN.fullmatch(name) is not None


def _built_in_names() -> set[str]:
    """Names of the packages and resources of this application."""
    registry = domain.registry
    resources = {name.partition(":")[0] for name in (*registry.scopes, *registry.permissions)}
    return resources | {name.partition(".")[0] for name in registry.domains}


def lock_service(session: SystemSession, name: str, *, is_revoked_allowed: bool = False) -> Service:
    """A service, locked until the transaction ends.

    raises: ServiceNotFound, ServiceRevoked
    """
    statement = sa.select(Service).filter_by(name=name).with_for_update()
    service = session.scalar(statement.execution_options(populate_existing=True))
    if service is None:
        raise ServiceNotFound(details={"name": name})
    if service.revoked_at is not None and not is_revoked_allowed:
        raise ServiceRevoked
    return service


def record_change(
    session: SystemSession, service: Service, operator: OperatorContext, verb: str, data: Mapping[str, Any]
) -> None:
    """Record an action of an operator on a service in the log of the platform, with the reason.

    verb: such as "rotated"
    """
    target, named = ("service", service.id), {"name": service.name, **data, "reason": operator.reason.strip()}
    audit.record_event(session, None, operator.actor, f"service.{verb}", target, named)
