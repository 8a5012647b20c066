"""API keys: the key is the stable identity that limits, usage and the log of acts refer to; secrets come and go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api import mail
from saas_api.api_keys.models import ApiKey, ApiKeySecret
from saas_api.api_keys.queries import Described, describe, find_key
from saas_api.api_keys.service import telling
from saas_api.api_keys.service.secrets import issue
from saas_api.core import access, clock
from saas_api.core.access import SCOPES, Principal
from saas_api.core.errors import Conflict, Forbidden, Invalid, NotFound
from saas_api.core.ids import new_id
from saas_api.organizations import service as organizations
from saas_api.organizations.service import audit
from saas_api.users.models import User

_COLUMNS = {"allowed_ips": "ip_allow"}


class NoSuchKey(NotFound):
    """There is no such key, or another organization has it."""


class ScopeBeyondRole(Forbidden):
    """A key may not do more than the person who makes or changes it."""

    message = "Your role does not allow you to give a key these scopes."


class KeyEnded(Conflict):
    """The key was revoked or has expired; a new one takes its place."""

    message = "This API key has ended; make a new one."


@dataclass(frozen=True)
class Created:
    """A key and, this once, its text."""

    key: Described
    text: str


def create(
    session: Session,
    organization_id: UUID,
    creator: Principal | None,
    *,
    name: str,
    mode: str = "live",
    scopes: Sequence[str] | None = None,
    operator: audit.Actor = audit.SYSTEM,
    **options: Any,
) -> Created:
    """Make a key, and tell its maker by mail.

    creator: None for the platform itself
    operator: who acts for the platform then
    scopes: of SCOPES; None for all of them
    options: `expires_at`, `allowed_ips`, `rate_limit_per_minute`
    raises: Invalid when it would end in the past, ScopeBeyondRole, access.EmailNotVerified
    """
    expires_at = options.get("expires_at")
    if expires_at is not None and expires_at <= clock.now():
        raise Invalid.at("expires_at", "This time has passed.")
    wanted = sorted(SCOPES if scopes is None else set(scopes))
    if creator is not None:
        check_giver(creator, mode, wanted)
    key = ApiKey(
        organization_id=organization_id,
        id=new_id(),
        name=name,
        mode=mode,
        scopes=wanted,
        ip_allow=options.get("allowed_ips") or None,
        rate_limit_per_minute=options.get("rate_limit_per_minute"),
        created_by=creator.id if creator else None,
        created_at=clock.now(),
    )
    session.add(key)
    session.flush()  # the secret refers to it
    secret, text = issue(session, key, 1, expires_at)
    described = describe(key, secret)
    end = clock.rfc3339(expires_at) if expires_at else None
    note(session, key, creator or operator, "created", {**_facts(key), "mode": mode, "expires_at": end})
    telling.publish(session, organization_id, described, "created")
    if creator is not None:
        _tell(session, creator, described)
    return Created(described, text)


def get(session: Session, organization_id: UUID, key_id: UUID) -> Described:
    """A key.

    raises: NoSuchKey
    """
    described = find_key(session, organization_id, key_id)
    if described is None:
        raise NoSuchKey
    return described


def change(session: Session, by: Principal, key_id: UUID, changes: Mapping[str, Any]) -> Described:
    """Change a key; every process knows on the next request.

    changes: any of `name`, `scopes`, `allowed_ips`, `rate_limit_per_minute`
    raises: NoSuchKey, KeyEnded, ScopeBeyondRole
    """
    key = lock(session, by.organization_id, key_id)
    if key.revoked_at is not None:
        raise KeyEnded
    before = _facts(key)
    for field, value in changes.items():
        if field == "scopes":
            check_scopes(by, value)
            key.scopes = sorted(set(value))
        else:
            setattr(key, _COLUMNS.get(field, field), value or None)
    after = _facts(key)
    changed = [field for field in after if before[field] != after[field]]
    if changed:
        told = {"before": {f: before[f] for f in changed}, "after": {f: after[f] for f in changed}}
        note(session, key, by, "changed", told)
        organizations.changed(session, by.organization_id)
    session.flush()
    return get(session, by.organization_id, key_id)


def revoke(session: Session, by: Principal, key_id: UUID) -> Described:
    """End a key: it is refused on the next request, in every process. A repeat changes nothing.

    raises: NoSuchKey
    """
    return withdraw(session, by.organization_id, key_id, audit.actor_of(by), "revoked by a member")


def withdraw(session: Session, organization_id: UUID, key_id: UUID, actor: audit.Actor, reason: str) -> Described:
    """End a key as `revoke` does, whoever asks for it.

    reason: kept with the key
    raises: NoSuchKey
    """
    key = lock(session, organization_id, key_id)
    if key.revoked_at is None:
        now = clock.now()
        key.revoked_at, key.revoked_reason = now, reason
        mine = {"organization_id": organization_id, "key_id": key_id, "revoked_at": None}
        session.execute(sa.update(ApiKeySecret).filter_by(**mine).values(revoked_at=now))
        note(session, key, actor, "revoked", {"name": key.name})
        organizations.changed(session, organization_id)
        session.flush()
        described = get(session, organization_id, key_id)
        telling.publish(session, organization_id, described, "revoked")
        return described
    return get(session, organization_id, key_id)


def lock(session: Session, organization_id: UUID, key_id: UUID) -> ApiKey:
    """A key that nobody else changes until this transaction ends.

    raises: NoSuchKey
    """
    statement = sa.select(ApiKey).filter_by(organization_id=organization_id, id=key_id).with_for_update()
    key = session.scalar(statement.execution_options(populate_existing=True))
    if key is None:
        raise NoSuchKey
    return key


def check_giver(giver: Principal, mode: str, scopes: Sequence[str]) -> None:
    """Let a person take a secret into the hand that may do this much.

    raises: ScopeBeyondRole, access.EmailNotVerified for a live one
    """
    if mode == "live":
        access.check_verified(giver)
    check_scopes(giver, scopes)


def check_scopes(giver: Principal, scopes: Sequence[str]) -> None:
    """Let a person give a key these scopes.

    raises: ScopeBeyondRole
    """
    beyond = [scope for scope in scopes if not access.may_give(giver, scope)]
    if beyond:
        raise ScopeBeyondRole(details={"scopes": beyond})


def note(session: Session, key: ApiKey, by: Principal | audit.Actor, verb: str, data: Mapping[str, Any]) -> None:
    """Write an act on a key into the log."""
    actor = audit.actor_of(by) if isinstance(by, Principal) else by
    audit.record(session, key.organization_id, actor, f"api_key.{verb}", ("api_key", key.id), data)


def _facts(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "scopes": list(key.scopes),
        "allowed_ips": list(key.ip_allow or ()),
        "rate_limit_per_minute": key.rate_limit_per_minute,
    }


def _tell(session: Session, creator: Principal, key: Described) -> None:
    """Whoever holds a stolen session cannot make a key unnoticed."""
    person = session.execute(sa.select(User.email, User.full_name).where(User.id == creator.id)).one()
    told = {"name": person.full_name, "creator": person.full_name or person.email, "key": key.name, "prefix": key.hint}
    place = organizations.get(session, creator.organization_id)
    mail.send(session, "key_created", person.email, organization_id=place.id, organization=place.name, **told)
