"""API keys of an organization: lists, creation, changes, rotation and revocation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, organizations
from saas_api.accounts.audit import SYSTEM_ACTOR, Actor
from saas_api.accounts.models import Membership, User
from saas_api.api_keys import events, key_scopes, secrets
from saas_api.api_keys.key_scopes import OfferedScopes
from saas_api.api_keys.models import ApiKey, ApiKeySecret, CreatedKey, KeyStatus, KeyView, RotatedKey
from saas_api.core import access, clock, ids
from saas_api.core.access import FULL_ACCESS, PERMISSIONS, KeyMode, Principal
from saas_api.core.db import pagination
from saas_api.core.db.pagination import Page, PageRequest
from saas_api.core.db.tenancy import SystemSession
from saas_api.core.errors import Conflict, NotFound, ValidationFailed

MAX_KEYS = 500
_REVOKED_BY_MEMBER = "revoked by a member"
_COLUMN_BY_FIELD = {"allowed_ips": "ip_allow"}


@dataclass(frozen=True)
class RemovedMemberKeys:
    """Ids of the keys that a removed member had created."""

    revoked_keys: Sequence[UUID]
    handed_over_keys: Sequence[UUID]


@dataclass(frozen=True)
class SkippedKey:
    """A key that was not revoked.

    reason: "not_found" or "already_revoked"
    """

    key_id: UUID
    reason: str


@dataclass(frozen=True)
class RevokedKeys:
    """Keys that were revoked, sorted by id, and those that were not."""

    keys: Sequence[KeyView]
    skipped: Sequence[SkippedKey]

    @property
    def count(self) -> int:
        """Number of revoked keys."""
        return len(self.keys)


class KeyNotFound(NotFound):
    """There is no such key, or another organization has it."""


class KeyInactive(Conflict):
    """The key was revoked or has expired; a new one takes its place."""

    message = "This API key has ended; make a new one."


class TooManyKeys(Conflict):
    """An organization has at most 500 keys that are neither revoked nor expired."""

    code, message = "TOO_MANY_KEYS", f"There are {MAX_KEYS} active API keys already; revoke one first."


class RotationInProgress(Conflict):
    """Two secrets of the key are live already; the old one has to end first."""

    code = "ROTATION_IN_PROGRESS"
    message = "The old secret of this API key is still valid; revoke it or rotate with grace_seconds 0."
    constraint = "api_key_secrets_slot"


def list_keys(
    session: Session,
    organization_id: UUID,
    request: PageRequest,
    *,
    mode: str | None = None,
    status: str | None = None,
) -> Page:
    """Return a page of `KeyView`, newest first.

    raises: ValidationFailed for a cursor of another list
    """
    statement = _select_with_newest_secret().where(ApiKey.organization_id == organization_id)
    if mode:
        statement = statement.where(ApiKey.mode == mode)
    if status:
        statement = statement.where(_status_clause(KeyStatus(status)))
    offered = key_scopes.list_offered_now()
    return pagination.paginate(
        session,
        statement,
        ApiKey.id.desc(),
        request=request,
        convert=lambda row: _to_view(row[0], row[1], row[2], offered),
    )


def get_key(session: Session, organization_id: UUID, key_id: UUID) -> KeyView:
    """Return a key, also a revoked one.

    raises: KeyNotFound
    """
    statement = _select_with_newest_secret().where(ApiKey.organization_id == organization_id, ApiKey.id == key_id)
    row = session.execute(statement).first()
    if row is None:
        raise KeyNotFound
    return _to_view(*row, key_scopes.list_offered_now())


def list_keys_by_id(
    session: Session, organization_id: UUID, key_ids: Sequence[UUID], *, mode: str | None = None
) -> list[KeyView]:
    """Return the keys that there are of some ids, newest first.

    mode: keys of this mode only
    """
    statement = _select_with_newest_secret().where(ApiKey.organization_id == organization_id, ApiKey.id.in_(key_ids))
    if mode:
        statement = statement.where(ApiKey.mode == mode)
    offered = key_scopes.list_offered_now()
    rows = session.execute(statement.order_by(ApiKey.id.desc()))
    return [_to_view(row[0], row[1], row[2], offered) for row in rows]


def find_key_organization(session: SystemSession, key_id: UUID) -> UUID | None:
    """Return the organization of a key, or None when there is no such key."""
    return session.scalar(sa.select(ApiKey.organization_id).where(ApiKey.id == key_id))


def count_active(session: Session, organization_id: UUID) -> int:
    """Number of keys of an organization that are not revoked."""
    keys = sa.select(sa.func.count()).select_from(ApiKey).filter_by(organization_id=organization_id, revoked_at=None)
    return session.scalar(keys) or 0


def lock_key(session: Session, organization_id: UUID, key_id: UUID) -> ApiKey:
    """Return a key, locked until the transaction ends.

    raises: KeyNotFound
    """
    statement = sa.select(ApiKey).filter_by(organization_id=organization_id, id=key_id).with_for_update()
    key = session.scalar(statement.execution_options(populate_existing=True))
    if key is None:
        raise KeyNotFound
    return key


def _select_with_newest_secret() -> sa.Select[ApiKey, ApiKeySecret, bool]:
    newest = (
        sa.select(ApiKeySecret.id)
        .where(secrets.secret_belongs_to_key())
        .order_by(ApiKeySecret.created_at.desc())
        .limit(1)
        .correlate(ApiKey)
        .scalar_subquery()
    )
    return sa.select(ApiKey, ApiKeySecret, _orphaned_clause()).join(
        ApiKeySecret, sa.and_(secrets.secret_belongs_to_key(), ApiKeySecret.id == newest)
    )


def _orphaned_clause() -> sa.ColumnElement[bool]:
    """Condition of a key whose creator has left, is disabled, or may no longer create keys."""
    creator = (
        sa.select(Membership.user_id)
        .join(User, User.id == Membership.user_id)
        .where(Membership.organization_id == ApiKey.organization_id, Membership.user_id == ApiKey.created_by)
        .where(Membership.role.in_(PERMISSIONS["keys:create"]), User.disabled_at.is_(None))
    )
    return sa.and_(ApiKey.created_by.is_not(None), sa.not_(creator.exists()))


def _status_clause(status: KeyStatus) -> sa.ColumnElement[bool]:
    is_expired = sa.and_(ApiKeySecret.expires_at.is_not(None), ApiKeySecret.expires_at <= clock.now())
    if status == KeyStatus.REVOKED:
        return ApiKey.revoked_at.is_not(None)
    return sa.and_(ApiKey.revoked_at.is_(None), is_expired if status == KeyStatus.EXPIRED else sa.not_(is_expired))


_LOCK_CREATION = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('api_keys:' || :organization_id, 0))")


def _require_room(session: Session, organization_id: UUID) -> None:
    """Wait for concurrent creations in the organization.

    raises: TooManyKeys
    """
    session.execute(_LOCK_CREATION, {"organization_id": str(organization_id)})
    active = _select_with_newest_secret().where(
        ApiKey.organization_id == organization_id, _status_clause(KeyStatus.ACTIVE)
    )
    count = session.scalar(sa.select(sa.func.count()).select_from(active.with_only_columns(ApiKey.id).subquery()))
    if (count or 0) >= MAX_KEYS:
        raise TooManyKeys


def _to_view(key: ApiKey, secret: ApiKeySecret, is_orphaned: bool, offered: OfferedScopes) -> KeyView:
    is_expired = secret.expires_at is not None and secret.expires_at <= clock.now()
    return KeyView(
        id=key.id,
        name=key.name,
        mode=key.mode,
        scopes=offered.expand(key.scopes),
        allowed_ips=key.ip_allow or [],
        rate_limit_per_minute=key.rate_limit_per_minute,
        hint=secret.hint,
        last_four=secret.last_four,
        status=KeyStatus.REVOKED if key.revoked_at else KeyStatus.EXPIRED if is_expired else KeyStatus.ACTIVE,
        last_used_at=key.last_used_at,
        expires_at=secret.expires_at,
        revoked_at=key.revoked_at,
        created_at=key.created_at,
        created_by=key.created_by,
        is_orphaned=is_orphaned,
        has_full_access=FULL_ACCESS in key.scopes,
    )


def create_key(
    session: Session,
    organization_id: UUID,
    creator: Principal | None,
    *,
    name: str,
    mode: str = KeyMode.LIVE,
    scopes: Sequence[str] | None = None,
    operator: Actor = SYSTEM_ACTOR,
    **options: Any,
) -> CreatedKey:
    """Create a key and send its creator a mail, or the owner when a portal session is the creator.

    creator: None for the platform; `operator` is the actor then
    scopes: of this application and of services; None for full access
    options: `expires_at`, `allowed_ips`, `rate_limit_per_minute`
    raises: ValidationFailed for an unknown scope, or when `expires_at` has passed; ScopeBeyondRole, TooManyKeys; for a
        live key access.EmailNotVerified and access.FreshLoginRequired
    """
    expires_at, offered = options.get("expires_at"), key_scopes.list_offered_now()
    _check_expiry(expires_at)
    granted = _stored_scopes(scopes, offered)
    if creator is not None:
        _require_may_hold_secret(creator, mode, granted)
        _lock_member(session, creator, "keys:create")
    _require_room(session, organization_id)
    key = ApiKey(
        organization_id=organization_id,
        id=ids.new_id(),
        name=name,
        mode=KeyMode(mode),
        scopes=granted,
        ip_allow=options.get("allowed_ips") or None,
        rate_limit_per_minute=options.get("rate_limit_per_minute"),
        created_by=creator.id if creator is not None and creator.kind == "user" else None,
        created_at=clock.now(),
    )
    session.add(key)
    session.flush()  # the secret refers to it
    record, secret = secrets.create_secret(session, key, 1, expires_at)
    created = CreatedKey(**vars(_to_view(key, record, is_orphaned=False, offered=offered)), secret=secret)
    data = {**_audit_data(key), "mode": mode, "expires_at": _format_expiry(expires_at)}
    _record_key_event(session, key, creator or operator, "created", data)
    events.publish_key_event(session, organization_id, created, "created")
    if creator is not None:
        events.notify_creator(session, creator, created)
    return created


def update_key(session: Session, by: Principal, key_id: UUID, changes: Mapping[str, Any]) -> KeyView:
    """Change a key. The changes apply to the next request in every process.

    changes: any of `name`, `scopes` as for `create_key`, `allowed_ips`, `rate_limit_per_minute`, and `expires_at`,
        after which no secret of the key is valid; None for never
    raises: KeyNotFound, KeyInactive when the key is revoked, or for `expires_at` when it has expired; ScopeBeyondRole;
        ValidationFailed for an unknown scope, or when `expires_at` has passed; access.FreshLoginRequired for other
        scopes, networks or another expiry of a live key
    """
    key = lock_key(session, by.organization_id, key_id)
    if key.revoked_at is not None:
        raise KeyInactive
    before, after = _audit_data(key), {}
    for field, value in changes.items():
        if field == "scopes":
            granted = _stored_scopes(value, key_scopes.list_offered_now(), key.scopes)
            key_scopes.require_may_grant(by, granted)
            key.scopes = granted
        elif field == "expires_at":
            before[field], after[field] = _set_expiry(session, key, value)
        else:
            setattr(key, _COLUMN_BY_FIELD.get(field, field), value or None)
    after = {**_audit_data(key), **after}
    changed = [field for field in after if before[field] != after[field]]
    if not {"scopes", "allowed_ips", "expires_at"}.isdisjoint(changed):
        _require_fresh_login_for_live_key(by, key)
    if changed:
        data = {"before": {f: before[f] for f in changed}, "after": {f: after[f] for f in changed}}
        _record_key_event(session, key, by, "changed", data)
        organizations.bump_generation(session, by.organization_id)
    session.flush()
    return get_key(session, by.organization_id, key_id)


def _set_expiry(session: Session, key: ApiKey, expires_at: datetime | None) -> tuple[str | None, str | None]:
    """Set when a key expires; the previous secret of a rotation keeps its own end if that is sooner.

    returns: the expiry before and after, for the audit log
    raises: KeyInactive, ValidationFailed
    """
    _check_expiry(expires_at)
    newest, earlier = _get_active_secrets(session, key, clock.now())
    expires_at_before, newest.expires_at = newest.expires_at, expires_at
    for secret in earlier:
        if expires_at and secret.expires_at and expires_at < secret.expires_at:
            secret.expires_at = expires_at
    return _format_expiry(expires_at_before), _format_expiry(expires_at)


def _check_expiry(expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= clock.now():
        raise ValidationFailed.at_field("expires_at", "This time has passed.")


def _format_expiry(expires_at: datetime | None) -> str | None:
    return clock.format_rfc3339(expires_at) if expires_at else None


def rotate_key(session: Session, by: Principal, key_id: UUID, grace_seconds: int) -> RotatedKey:
    """Give a key a new secret, which expires when the previous one would have.

    grace_seconds: 0 to 604,800; how long the previous secret stays valid, at most until its own expiry; 0 revokes every
        secret, also that of an earlier rotation
    raises: KeyNotFound, KeyInactive, RotationInProgress, ScopeBeyondRole; for a live key access.EmailNotVerified and
        access.FreshLoginRequired
    """
    _lock_member(session, by, "keys:write")  # before the key, as a removal locks them
    key = lock_key(session, by.organization_id, key_id)
    _require_may_hold_secret(by, key.mode, key.scopes)
    now = clock.now()
    old, earlier = _get_active_secrets(session, key, now)
    if earlier and grace_seconds > 0:
        raise RotationInProgress
    expires_at = old.expires_at
    old_expires_at = now + timedelta(seconds=grace_seconds)
    old.expires_at = old_expires_at = min(old_expires_at, expires_at) if expires_at else old_expires_at
    if grace_seconds == 0:
        old.revoked_at = now
        for earlier_secret in earlier:
            _end_old_secret(session, by, key, earlier_secret)
        session.flush()  # frees the slots
    record, secret = secrets.create_secret(session, key, 3 - old.slot, expires_at)
    data = {"grace_seconds": grace_seconds, "old_last_four": old.last_four, "last_four": record.last_four}
    _record_key_event(session, key, by, "rotated", data)
    organizations.bump_generation(session, by.organization_id)
    session.flush()  # the version of the event counts the secrets
    view = get_key(session, by.organization_id, key_id)
    rotated = RotatedKey(**vars(view), secret=secret, old_expires_at=old_expires_at)
    events.publish_key_event(session, by.organization_id, rotated, "rotated")
    return rotated


def revoke_previous_secrets(session: Session, by: Principal, key_id: UUID) -> KeyView:
    """Revoke every secret of a key but the newest. A repeat changes nothing.

    raises: KeyNotFound, KeyInactive; access.FreshLoginRequired for a live key
    """
    key = lock_key(session, by.organization_id, key_id)
    _require_fresh_login_for_live_key(by, key)
    _, earlier = _get_active_secrets(session, key, clock.now())
    for secret in earlier:
        _end_old_secret(session, by, key, secret)
        organizations.bump_generation(session, by.organization_id)
    session.flush()
    return get_key(session, by.organization_id, key_id)


def _end_old_secret(session: Session, by: Principal, key: ApiKey, secret: ApiKeySecret) -> None:
    secret.revoked_at = clock.now()
    _record_key_event(session, key, by, "old_secret_ended", {"old_last_four": secret.last_four})


def revoke_key(session: Session, by: Principal, key_id: UUID) -> KeyView:
    """Revoke a key: its next request is rejected in every process. A repeat changes nothing.

    raises: KeyNotFound; access.FreshLoginRequired for a live key
    """
    _require_fresh_login_for_live_key(by, lock_key(session, by.organization_id, key_id))
    return revoke_as(session, by.organization_id, key_id, audit.actor_for(by), _REVOKED_BY_MEMBER)


def revoke_keys(session: Session, by: Principal, key_ids: Sequence[UUID], *, mode: str | None = None) -> RevokedKeys:
    """Revoke several keys: all that can be revoked, or none. Revoked keys and ids of none are skipped.

    mode: keys of the other mode are skipped as ids of none
    raises: access.FreshLoginRequired when one of them is live
    """
    chosen = sa.select(ApiKey).where(ApiKey.organization_id == by.organization_id, ApiKey.id.in_(key_ids))
    if mode:
        chosen = chosen.where(ApiKey.mode == mode)
    # All are locked before the first is revoked, as in `revoke_all`.
    found = {key.id: key for key in session.scalars(chosen.order_by(ApiKey.id).with_for_update())}
    active = [key for key in found.values() if key.revoked_at is None]
    for key in active:
        _require_fresh_login_for_live_key(by, key)
    actor = audit.actor_for(by)
    revoked = [revoke_as(session, by.organization_id, key.id, actor, _REVOKED_BY_MEMBER) for key in active]
    revoked_ids = {key.id for key in active}
    skipped = [
        SkippedKey(key_id, "already_revoked" if key_id in found else "not_found")
        for key_id in dict.fromkeys(key_ids)
        if key_id not in revoked_ids
    ]
    return RevokedKeys(revoked, skipped)


def list_keys_of_creator(session: Session, user_id: UUID, organization_id: UUID | None = None) -> list[KeyView]:
    """Return the keys that a user created and that are not revoked, the newest first.

    organization_id: None for every organization that the session sees
    """
    statement = _select_with_newest_secret().where(ApiKey.created_by == user_id, ApiKey.revoked_at.is_(None))
    if organization_id:
        statement = statement.where(ApiKey.organization_id == organization_id)
    rows = session.execute(statement.order_by(ApiKey.organization_id, ApiKey.id.desc()))
    offered = key_scopes.list_offered_now()
    return [_to_view(row[0], row[1], row[2], offered) for row in rows]


def revoke_keys_of_creator(
    session: Session, user_id: UUID, actor: Actor, reason: str, organization_id: UUID | None = None
) -> list[UUID]:
    """Revoke every key that a user created.

    reason: stored with the keys
    organization_id: None for every organization that the session sees
    returns: ids of the revoked keys
    """
    statement = sa.select(ApiKey.organization_id, ApiKey.id).filter_by(created_by=user_id, revoked_at=None)
    if organization_id:
        statement = statement.filter_by(organization_id=organization_id)
    revoked = session.execute(statement.order_by(ApiKey.organization_id, ApiKey.id)).all()
    for row in revoked:
        revoke_as(session, row.organization_id, row.id, actor, reason)
    return [row.id for row in revoked]


def hand_over_keys(session: Session, principal: Principal, user_id: UUID) -> list[UUID]:
    """Make the caller the creator of every key that a user of the organization created and that is not revoked.

    returns: ids of the keys
    raises: ScopeBeyondRole
    """
    statement = sa.select(ApiKey).filter_by(
        organization_id=principal.organization_id, created_by=user_id, revoked_at=None
    )
    handed_over = session.scalars(statement.order_by(ApiKey.id).with_for_update()).all()
    for key in handed_over:
        key_scopes.require_may_grant(principal, key.scopes)
        key.created_by = principal.id
        data = {"before": {"created_by": str(user_id)}, "after": {"created_by": str(principal.id)}}
        _record_key_event(session, key, principal, "handed_over", data)
    session.flush()
    return [key.id for key in handed_over]


def remove_member(session: Session, principal: Principal, user_id: UUID, *, revokes_keys: bool) -> RemovedMemberKeys:
    """Remove a member, and revoke the keys that they created or hand them over to the caller.

    raises: as `members.remove_member`
    """
    members.remove_member(session, principal, user_id)
    if not revokes_keys:
        return RemovedMemberKeys([], hand_over_keys(session, principal, user_id))
    actor, reason = audit.actor_for(principal), "its creator was removed"
    return RemovedMemberKeys(revoke_keys_of_creator(session, user_id, actor, reason, principal.organization_id), [])


def revoke_as(session: Session, organization_id: UUID, key_id: UUID, actor: Actor, reason: str) -> KeyView:
    """Revoke a key on behalf of any actor.

    reason: stored with the key
    raises: KeyNotFound
    """
    key = lock_key(session, organization_id, key_id)
    if key.revoked_at is not None:
        return get_key(session, organization_id, key_id)
    now = clock.now()
    key.revoked_at, key.revoked_reason = now, reason
    unrevoked = {"organization_id": organization_id, "key_id": key_id, "revoked_at": None}
    session.execute(sa.update(ApiKeySecret).filter_by(**unrevoked).values(revoked_at=now))
    _record_key_event(session, key, actor, "revoked", {"name": key.name})
    organizations.bump_generation(session, organization_id)
    session.flush()
    revoked = get_key(session, organization_id, key_id)
    events.publish_key_event(session, organization_id, revoked, "revoked")
    return revoked


def revoke_all(session: Session, organization_id: UUID, actor: Actor, reason: str) -> int:
    """Revoke every key of an organization.

    reason: stored with the keys
    returns: number of keys
    """
    active = sa.select(ApiKey.id).filter_by(organization_id=organization_id, revoked_at=None).order_by(ApiKey.id)
    # All are locked before the first is revoked: a revocation locks the organization, as changes of keys do after them.
    key_ids = session.scalars(active.with_for_update()).all()
    for key_id in key_ids:
        revoke_as(session, organization_id, key_id, actor, reason)
    return len(key_ids)


def _lock_member(session: Session, by: Principal, permission: str) -> None:
    """Let a removal of the member wait, or notice that it has ended the membership; a portal session has no member."""
    if by.kind == "user":
        members.lock_member(session, by, permission, by.id)


def _require_may_hold_secret(principal: Principal, mode: str, scopes: Sequence[str]) -> None:
    """Raise ScopeBeyondRole, or for a live key EmailNotVerified or FreshLoginRequired, when a user may not hold it."""
    key_scopes.require_may_grant(principal, scopes)
    if mode == KeyMode.LIVE:
        access.require_verified_email(principal)
        access.require_fresh_login(principal)


def _require_fresh_login_for_live_key(principal: Principal, key: ApiKey) -> None:
    if key.mode == KeyMode.LIVE:
        access.require_fresh_login(principal)


def _stored_scopes(scopes: Sequence[str] | None, offered: OfferedScopes, held: Sequence[str] = ()) -> list[str]:
    """The scopes of a key as they are stored.

    held: that the key has already
    raises: ValidationFailed for an unknown scope
    """
    if scopes is None:
        return [FULL_ACCESS]
    key_scopes.check_known(scopes, offered, set(held) - {FULL_ACCESS})
    return sorted(set(scopes))


def _get_active_secrets(session: Session, key: ApiKey, now: datetime) -> tuple[ApiKeySecret, list[ApiKeySecret]]:
    """Return the newest valid secret and the earlier ones; revoke the expired ones, which frees their slots.

    raises: KeyInactive when none is valid
    """
    unrevoked = sa.select(ApiKeySecret).filter_by(organization_id=key.organization_id, key_id=key.id, revoked_at=None)
    newest_first = unrevoked.order_by(ApiKeySecret.created_at.desc()).execution_options(populate_existing=True)
    active = []
    for secret in session.scalars(newest_first):
        if secret.expires_at is not None and secret.expires_at <= now:
            secret.revoked_at = now
        else:
            active.append(secret)
    session.flush()  # an insert would run before these updates and find the slot taken
    if not active:
        raise KeyInactive
    return active[0], active[1:]


def _audit_data(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "scopes": list(key.scopes),
        "allowed_ips": list(key.ip_allow or ()),
        "rate_limit_per_minute": key.rate_limit_per_minute,
    }


def _record_key_event(session: Session, key: ApiKey, by: Principal | Actor, verb: str, data: Mapping[str, Any]) -> None:
    actor = audit.actor_for(by) if isinstance(by, Principal) else by
    audit.record_event(session, key.organization_id, actor, f"api_key.{verb}", ("api_key", key.id), data)
