"""The log of acts that matter: who did what to what, from where, in the transaction of the act."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from saas_api.core import clock, observe
from saas_api.core.access import Principal
from saas_api.organizations.models import AuditEvent


@dataclass(frozen=True)
class Actor:
    """Who acts.

    kind: "user", "api_key", "operator" or "system"
    on_behalf_of: the person an operator looks at the organization for
    """

    kind: str
    id: str | None = None
    on_behalf_of: UUID | None = None


SYSTEM = Actor("system")


def actor_of(principal: Principal) -> Actor:
    """A caller as the log names them; an operator without a role in an organization acts as operator there."""
    kind = "operator" if principal.office and principal.role is None else "user"
    return Actor("api_key" if principal.kind == "key" else kind, str(principal.id))


def record(
    session: Session,
    organization_id: UUID | None,
    actor: Actor,
    action: str,
    target: tuple[str, object],
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write one act; address and request id are those of the request that runs.

    An operator's act on an organization is written twice: for that organization, and in the operators' own log.

    session: the one of the act, so that neither stays without the other; of the system where an operator acts
    organization_id: None for an act on the platform
    action: "room.verb", such as "api_key.revoked"
    target: its type and id
    data: JSON-ready, before and after; no secrets, no bodies
    """
    session.add(_event(organization_id, actor, action, target, data or {}))
    if actor.kind == "operator" and organization_id is not None:
        told = {**(data or {}), "organization": str(organization_id)}
        session.add(_event(None, actor, action, target, told))


def _event(
    organization_id: UUID | None, actor: Actor, action: str, target: tuple[str, object], data: Mapping[str, Any]
) -> AuditEvent:
    origin = observe.origin()
    return AuditEvent(
        organization_id=organization_id,
        actor_type=actor.kind,
        actor_id=actor.id,
        on_behalf_of=actor.on_behalf_of,
        action=action,
        target_type=target[0],
        target_id=str(target[1]),
        data=dict(data),
        request_id=origin.request_id,
        ip=origin.ip,
        at=clock.now(),
    )
