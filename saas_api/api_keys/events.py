"""Events of API keys, and the mail about a new one."""

from dataclasses import replace
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from saas_api.accounts import audit, members, notices, organizations
from saas_api.accounts.notices import Notice, Recipient
from saas_api.api_keys.models import ApiKeySecret, KeyView
from saas_api.api_keys.schemas import KeyEventOut
from saas_api.core import ids
from saas_api.core.access import Principal
from saas_api.webhooks import event_types, events
from saas_api.webhooks.events import EventSubject, NewEvent

_EXAMPLE: dict[str, Any] = {
    "id": "key_018f3c6a9d2e7a018b4c5d6e7f80bb02",
    "name": "ci",
    "masked": "sk_live_4Kd1...9aF2",
    "prefix": "sk_live_4Kd1",
    "last_four": "9aF2",
    "mode": "live",
    "scopes": ["messages:write"],
    "has_full_access": False,
    "allowed_ips": [],
    "rate_limit_per_minute": None,
    "is_active": True,
    "status": "active",
    "last_used_at": None,
    "expires_at": None,
    "revoked_at": None,
    "created_at": "2026-03-01T12:00:00.000Z",
    "created_by": "usr_018f3c6a9d2e7a018b4c5d6e7f80cc01",
    "is_orphaned": False,
    "old_expires_at": None,
}
event_types.register("api_key.created", schema=KeyEventOut, description="An API key was made.", example=_EXAMPLE)
event_types.register(
    "api_key.rotated",
    schema=KeyEventOut,
    description="An API key got a new secret; the old one works until `old_expires_at`.",
    example={
        **_EXAMPLE,
        "masked": "sk_live_7Hq3...c0Qe",
        "prefix": "sk_live_7Hq3",
        "last_four": "c0Qe",
        "old_expires_at": "2026-03-02T12:00:00.000Z",
    },
)
event_types.register(
    "api_key.revoked",
    schema=KeyEventOut,
    description="An API key was revoked.",
    example={**_EXAMPLE, "is_active": False, "status": "revoked", "revoked_at": "2026-03-01T12:00:00.000Z"},
)


def publish_key_event(session: Session, organization_id: UUID, key: KeyView, verb: str) -> None:
    """Publish an event of a key, in the key's mode.

    Its version is the number of secrets that the key has had, one more when revoked.
    key: a `RotatedKey` for "rotated"
    verb: "created", "rotated" or "revoked"
    """
    secrets_of_key = (
        sa.select(sa.func.count()).select_from(ApiKeySecret).filter_by(organization_id=organization_id, key_id=key.id)
    )
    version = session.scalars(secrets_of_key).one() + (verb == "revoked")
    event_type = f"api_key.{verb}"
    data = event_types.dump_data(event_type, key)
    events.publish_many(session, organization_id, [NewEvent(event_type, EventSubject(key.id, version), data, key.mode)])


def notify_creator(session: Session, creator: Principal, key: KeyView) -> None:
    """Mail the creator a notice, so that a key made in a stolen session is noticed; of a portal session, the owner."""
    facts = [f"Key: {key.name} ({key.hint}...)"]
    advice = "Revoke the key and change your password."
    path = f"/dashboard/api-keys/{ids.format_id('key', key.id)}"
    notice = Notice("A new API key was created", facts, advice, path, "/docs/api-keys#if-a-key-leaks")
    if creator.is_in_portal:
        notice = replace(notice, advice="Revoke the key if you don't know it.")
        members.enqueue_notice(session, creator.organization_id, audit.actor_for(creator), notice)
        return
    member = members.get_member(session, creator.organization_id, creator.id)
    organization = organizations.get_organization(session, creator.organization_id)
    notice = replace(notice, facts=[f"Organization: {organization.name}", *facts])
    recipient = Recipient(member.email, member.full_name if member.email_verified else "", member.email_verified)
    notices.enqueue(session, [recipient], notice, organization.id)
