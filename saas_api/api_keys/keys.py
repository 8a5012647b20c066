"""List, create, update, rotate, revoke; mark_used and flush_last_used."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit, organizations
from saas_api.accounts.audit import SYSTEM_ACTOR, Actor
from saas_api.accounts.models import User
from saas_api.api_keys import events, secrets
from saas_api.api_keys.models import ApiKey, ApiKeySecret, KeyView
from saas_api.core import access, clock, ids
from saas_api.core.access import SCOPES, Principal
from saas_api.core.db import pagination, tenancy
from saas_api.core.db.pagination import Page
from saas_api.core.errors import Conflict, Forbidden, NotFound, ValidationFailed
from saas_api.core.periodic_thread import PeriodicThread
from saas_api.mail import mails


def find_key(session: Session, organization_id: UUID, key_id: UUID) -> KeyView | None:
    """A key, revoked ones included."""
    statement = _with_secret().where(ApiKey.organization_id == organization_id, ApiKey.id == key_id)
    row = session.execute(statement).first()
    return to_view(row[0], row[1]) if row else None


def get_key_organization(session: Session, key_id: UUID) -> UUID | None:
    """Whose key it is; as the system."""
    return session.scalar(sa.select(ApiKey.organization_id).where(ApiKey.id == key_id))


def list_keys(session: Session, organization_id: UUID, query: dict[str, Any]) -> Page:
    """A page of keys, newest first.

    query: `mode`, `status` ("active", "expired", "revoked"), `limit`, `cursor`
    raises: Invalid on a cursor that is none
    """
    statement = _with_secret().where(ApiKey.organization_id == organization_id)
    if query["mode"]:
        statement = statement.where(ApiKey.mode == query["mode"])
    if query["status"]:
        statement = statement.where(_status_clause(query["status"]))
    if query["cursor"]:
        statement = statement.where(ApiKey.id < _position(query["cursor"]))
    rows = session.execute(statement.order_by(ApiKey.id.desc()).limit(query["limit"] + 1)).all()
    kept = [to_view(row[0], row[1]) for row in rows[: query["limit"]]]
    following = pagination.encode_cursor(kept[-1].id.hex) if len(rows) > query["limit"] else None
    return Page(kept, following, query["limit"])


def to_view(key: ApiKey, secret: ApiKeySecret) -> KeyView:
    """A key with the secret that stands for it."""
    is_over = secret.expires_at is not None and secret.expires_at <= clock.now()
    status = "revoked" if key.revoked_at else "expired" if is_over else "active"
    return KeyView(
        id=key.id,
        name=key.name,
        mode=key.mode,
        scopes=key.scopes,
        allowed_ips=key.ip_allow or [],
        rate_limit_per_minute=key.rate_limit_per_minute,
        hint=secret.hint,
        last_four=secret.last_four,
        is_active=status == "active",
        status=status,
        last_used_at=key.last_used_at,
        expires_at=secret.expires_at,
        revoked_at=key.revoked_at,
        created_at=key.created_at,
    )


def _with_secret() -> sa.Select[ApiKey, ApiKeySecret]:
    newest = (
        sa.select(ApiKeySecret.id)
        .where(secrets.secret_belongs_to_key())
        .order_by(ApiKeySecret.created_at.desc())
        .limit(1)
        .correlate(ApiKey)
        .scalar_subquery()
    )
    return sa.select(ApiKey, ApiKeySecret).join(
        ApiKeySecret, sa.and_(secrets.secret_belongs_to_key(), ApiKeySecret.id == newest)
    )


def _status_clause(status: str) -> sa.ColumnElement[bool]:
    is_over = sa.and_(ApiKeySecret.expires_at.is_not(None), ApiKeySecret.expires_at <= clock.now())
    conditions: dict[str, sa.ColumnElement[bool]] = {
        "revoked": ApiKey.revoked_at.is_not(None),
        "expired": sa.and_(ApiKey.revoked_at.is_(None), is_over),
        "active": sa.and_(ApiKey.revoked_at.is_(None), sa.not_(is_over)),
    }
    return conditions[status]


def _position(cursor: str) -> UUID:
    try:
        return UUID(hex=pagination.decode_cursor(cursor)[0])
    except (ValueError, IndexError) as cause:
        raise ValidationFailed.at_field("cursor", "Not a cursor of this list.") from cause


_COLUMNS = {"allowed_ips": "ip_allow"}


class KeyNotFound(NotFound):
    """There is no such key, or another organization has it."""


class ScopeBeyondRole(Forbidden):
    """A key may not do more than the person who makes or changes it."""

    message = "Your role does not allow you to give a key these scopes."


class KeyInactive(Conflict):
    """The key was revoked or has expired; a new one takes its place."""

    message = "This API key has ended; make a new one."


@dataclass(frozen=True)
class CreatedKey:
    """A key and, this once, its text."""

    key: KeyView
    text: str


def create(
    session: Session,
    organization_id: UUID,
    creator: Principal | None,
    *,
    name: str,
    mode: str = "live",
    scopes: Sequence[str] | None = None,
    operator: Actor = SYSTEM_ACTOR,
    **options: Any,
) -> CreatedKey:
    """Make a key, and tell its maker by mail.

    creator: None for the platform itself
    operator: who acts for the platform then
    scopes: of SCOPES; None for all of them
    options: `expires_at`, `allowed_ips`, `rate_limit_per_minute`
    raises: Invalid when it would end in the past, ScopeBeyondRole, access.EmailNotVerified
    """
    expires_at = options.get("expires_at")
    if expires_at is not None and expires_at <= clock.now():
        raise ValidationFailed.at_field("expires_at", "This time has passed.")
    wanted = sorted(SCOPES if scopes is None else set(scopes))
    if creator is not None:
        check_can_hold_secret(creator, mode, wanted)
    key = ApiKey(
        organization_id=organization_id,
        id=ids.new_id(),
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
    secret, text = secrets.create_secret(session, key, 1, expires_at)
    described = to_view(key, secret)
    end = clock.format_rfc3339(expires_at) if expires_at else None
    record_key_event(
        session, key, creator or operator, "created", {**_audit_data(key), "mode": mode, "expires_at": end}
    )
    events.publish_key_event(session, organization_id, described, "created")
    if creator is not None:
        _email_creator(session, creator, described)
    return CreatedKey(described, text)


def get(session: Session, organization_id: UUID, key_id: UUID) -> KeyView:
    """A key.

    raises: NoSuchKey
    """
    described = find_key(session, organization_id, key_id)
    if described is None:
        raise KeyNotFound
    return described


def update(session: Session, by: Principal, key_id: UUID, changes: Mapping[str, Any]) -> KeyView:
    """Change a key; every process knows on the next request.

    changes: any of `name`, `scopes`, `allowed_ips`, `rate_limit_per_minute`
    raises: NoSuchKey, KeyEnded, ScopeBeyondRole
    """
    key = lock_key(session, by.organization_id, key_id)
    if key.revoked_at is not None:
        raise KeyInactive
    before = _audit_data(key)
    for field, value in changes.items():
        if field == "scopes":
            check_can_grant_scopes(by, value)
            key.scopes = sorted(set(value))
        else:
            setattr(key, _COLUMNS.get(field, field), value or None)
    after = _audit_data(key)
    changed = [field for field in after if before[field] != after[field]]
    if changed:
        told = {"before": {f: before[f] for f in changed}, "after": {f: after[f] for f in changed}}
        record_key_event(session, key, by, "changed", told)
        organizations.bump_generation(session, by.organization_id)
    session.flush()
    return get(session, by.organization_id, key_id)


def revoke(session: Session, by: Principal, key_id: UUID) -> KeyView:
    """End a key: it is refused on the next request, in every process. A repeat changes nothing.

    raises: NoSuchKey
    """
    return revoke_as(session, by.organization_id, key_id, audit.actor_for(by), "revoked by a member")


def revoke_as(session: Session, organization_id: UUID, key_id: UUID, actor: Actor, reason: str) -> KeyView:
    """End a key as `revoke` does, whoever asks for it.

    reason: kept with the key
    raises: NoSuchKey
    """
    key = lock_key(session, organization_id, key_id)
    if key.revoked_at is None:
        now = clock.now()
        key.revoked_at, key.revoked_reason = now, reason
        mine = {"organization_id": organization_id, "key_id": key_id, "revoked_at": None}
        session.execute(sa.update(ApiKeySecret).filter_by(**mine).values(revoked_at=now))
        record_key_event(session, key, actor, "revoked", {"name": key.name})
        organizations.bump_generation(session, organization_id)
        session.flush()
        described = get(session, organization_id, key_id)
        events.publish_key_event(session, organization_id, described, "revoked")
        return described
    return get(session, organization_id, key_id)


def lock_key(session: Session, organization_id: UUID, key_id: UUID) -> ApiKey:
    """A key that nobody else changes until this transaction ends.

    raises: NoSuchKey
    """
    statement = sa.select(ApiKey).filter_by(organization_id=organization_id, id=key_id).with_for_update()
    key = session.scalar(statement.execution_options(populate_existing=True))
    if key is None:
        raise KeyNotFound
    return key


def check_can_hold_secret(giver: Principal, mode: str, scopes: Sequence[str]) -> None:
    """Let a person take a secret into the hand that may do this much.

    raises: ScopeBeyondRole, access.EmailNotVerified for a live one
    """
    if mode == "live":
        access.require_verified_email(giver)
    check_can_grant_scopes(giver, scopes)


def check_can_grant_scopes(giver: Principal, scopes: Sequence[str]) -> None:
    """Let a person give a key these scopes.

    raises: ScopeBeyondRole
    """
    beyond = [scope for scope in scopes if not access.can_grant_scope(giver, scope)]
    if beyond:
        raise ScopeBeyondRole(details={"scopes": beyond})


def record_key_event(session: Session, key: ApiKey, by: Principal | Actor, verb: str, data: Mapping[str, Any]) -> None:
    """Write an act on a key into the log."""
    actor = audit.actor_for(by) if isinstance(by, Principal) else by
    audit.record_event(session, key.organization_id, actor, f"api_key.{verb}", ("api_key", key.id), data)


def _audit_data(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "scopes": list(key.scopes),
        "allowed_ips": list(key.ip_allow or ()),
        "rate_limit_per_minute": key.rate_limit_per_minute,
    }


def _email_creator(session: Session, creator: Principal, key: KeyView) -> None:
    """Whoever holds a stolen session cannot make a key unnoticed."""
    person = session.execute(sa.select(User.email, User.full_name).where(User.id == creator.id)).one()
    told = {"name": person.full_name, "creator": person.full_name or person.email, "key": key.name, "prefix": key.hint}
    place = organizations.get(session, creator.organization_id)
    mails.enqueue(session, "key_created", person.email, organization_id=place.id, organization=place.name, **told)


class RotationInProgress(Conflict):
    """Two secrets of the key are live already; the old one has to end first."""

    code, message = "ROTATION_IN_PROGRESS", "The old secret of this API key is still valid; wait until it ends."
    constraint = "api_key_secrets_slot"


@dataclass(frozen=True)
class RotatedKey:
    """A key, this once its new text, and when the old one ends."""

    key: KeyView
    text: str
    old_expires_at: datetime


def rotate(session: Session, by: Principal, key_id: UUID, grace_seconds: int) -> RotatedKey:
    """Give a key a new secret, which ends when the old one was to end.

    grace_seconds: 0 to 604,800; how long the old secret goes on, at most until its own end
    raises: NoSuchKey, KeyEnded, RotationInProgress, ScopeBeyondRole, access.EmailNotVerified
    """
    key = lock_key(session, by.organization_id, key_id)
    check_can_hold_secret(by, key.mode, key.scopes)
    now = clock.now()
    live = _active_secrets(session, key, now)
    if not live:
        raise KeyInactive
    if len(live) > 1:
        raise RotationInProgress
    old, ends_at = live[0], live[0].expires_at
    old.expires_at = min(now + timedelta(seconds=grace_seconds), ends_at or datetime.max.replace(tzinfo=now.tzinfo))
    if grace_seconds == 0:
        old.revoked_at = now
    secret, text = secrets.create_secret(session, key, 3 - old.slot, ends_at)
    data = {"grace_seconds": grace_seconds, "old_last_four": old.last_four, "last_four": secret.last_four}
    record_key_event(session, key, by, "rotated", data)
    organizations.bump_generation(session, by.organization_id)
    described = to_view(key, secret)
    session.flush()  # counted among the key's secrets
    events.publish_key_event(session, by.organization_id, described, "rotated", old.expires_at)
    return RotatedKey(described, text, old.expires_at)


def revoke_previous_secrets(session: Session, by: Principal, key_id: UUID) -> KeyView:
    """End every secret of a key but the newest: what still sends the old one is refused on its next request.

    A repeat changes nothing.
    raises: NoSuchKey, KeyEnded
    """
    key = lock_key(session, by.organization_id, key_id)
    live = sorted(_active_secrets(session, key, clock.now()), key=lambda secret: secret.created_at)
    if not live:
        raise KeyInactive
    for secret in live[:-1]:
        secret.revoked_at = clock.now()
        record_key_event(session, key, by, "old_secret_ended", {"old_last_four": secret.last_four})
        organizations.bump_generation(session, by.organization_id)
    session.flush()
    return to_view(key, live[-1])


def _active_secrets(session: Session, key: ApiKey, now: datetime) -> list[ApiKeySecret]:
    """Secrets that open something; those whose time is over give up their slot."""
    mine = sa.select(ApiKeySecret).filter_by(organization_id=key.organization_id, key_id=key.id, revoked_at=None)
    live = []
    for secret in session.scalars(mine.execution_options(populate_existing=True)):
        if secret.expires_at is not None and secret.expires_at <= now:
            secret.revoked_at = now
        else:
            live.append(secret)
    session.flush()  # an insert would go before these updates and find the slot taken
    return live


FLUSH_SECONDS = 10

_pending: dict[tuple[UUID, UUID], datetime] = {}
_seen_lock = threading.Lock()


def mark_used(organization_id: UUID, key_id: UUID) -> None:
    """Remember that a key was used; costs no round trip, is written within ten seconds, and a kill may lose it."""
    with _seen_lock:
        _pending[organization_id, key_id] = clock.now()
    _flush_thread.ensure_started()


def flush_last_used() -> None:
    """Write when keys were last used, in one statement."""
    with _seen_lock:
        seen = dict(_pending)
        _pending.clear()
    if not seen:
        return
    values = {
        "organizations": [organization_id for organization_id, _ in seen],
        "keys": [key_id for _, key_id in seen],
        "times": list(seen.values()),
    }
    with tenancy.system_session("api_keys.seen") as session:
        session.execute(_LOCK_SEEN, values)
        session.execute(_WRITE_SEEN, values)


_SEEN = """unnest(CAST(:organizations AS uuid[]), CAST(:keys AS uuid[]), CAST(:times AS timestamptz[]))
  AS v (organization_id, id, at)"""
# One order of rows: two processes never deadlock.
_LOCK_SEEN = sa.text(f"""SELECT FROM api_keys k JOIN {_SEEN} USING (organization_id, id)
  ORDER BY k.organization_id, k.id FOR NO KEY UPDATE OF k""")
_WRITE_SEEN = sa.text(f"""UPDATE api_keys k SET last_used_at = v.at FROM {_SEEN}
  WHERE k.organization_id = v.organization_id AND k.id = v.id AND coalesce(k.last_used_at, '-infinity') < v.at""")
_flush_thread = PeriodicThread(FLUSH_SECONDS, flush_last_used)
