"""HTTP API of API keys, and of the removal of members, which ends the keys they created."""

from typing import Any
from uuid import UUID

from flask import Blueprint, g

from saas_api.accounts.members import CannotRemoveSelf, MemberNotFound, OwnerRequired
from saas_api.api_keys import keys
from saas_api.api_keys.key_scopes import ScopeBeyondRole
from saas_api.api_keys.keys import KeyInactive, KeyNotFound, RotationInProgress, TooManyKeys
from saas_api.api_keys.schemas import (
    CreatedKeyOut,
    KeyIn,
    KeyOut,
    KeysQuery,
    KeyUpdate,
    RemovedMemberOut,
    RemoveMemberQuery,
    RevokedKeysOut,
    RevokeKeysIn,
    RotatedKeyOut,
    RotateKeyIn,
)
from saas_api.core import fields
from saas_api.core.access import EmailNotVerified, FreshLoginRequired, require_permission
from saas_api.core.db import engine
from saas_api.core.db.pagination import PageRequest
from saas_api.core.web import endpoint as web_endpoint
from saas_api.core.web.endpoint import ViewResult, endpoint

bp = Blueprint("api_keys", __name__)

_NOT_SHOWN_AGAIN = "Store the key now: it is not shown again."


@bp.post("/keys")
@require_permission("keys:create")
@endpoint(
    operation_id="create_key",
    tag="api_keys",
    body=KeyIn(),
    returns=CreatedKeyOut(),
    status=201,
    errors=(ScopeBeyondRole, EmailNotVerified, FreshLoginRequired, TooManyKeys),
)
def create(body: dict[str, Any]) -> Any:
    """Create an API key; its secret is shown this once."""
    key = keys.create_key(engine.session(), g.principal.organization_id, g.principal, **body)
    return ViewResult(key, message=_NOT_SHOWN_AGAIN, is_secret=True)


@bp.get("/keys")
@require_permission("keys:read")
@endpoint(operation_id="list_keys", tag="api_keys", query=KeysQuery(), returns=fields.page_schema("keys", KeyOut()))
def list_keys(query: dict[str, Any]) -> Any:
    """List API keys, newest first."""
    request, filters = PageRequest.from_query(query)
    return keys.list_keys(engine.session(), g.principal.organization_id, request, **filters)


@bp.get('/keys/<id("key"):key_id>')
@require_permission("keys:read")
@endpoint(operation_id="get_key", tag="api_keys", returns=KeyOut(), errors=(KeyNotFound,))
def show(key_id: UUID) -> Any:
    """Show an API key, never its secret."""
    return keys.get_key(engine.session(), g.principal.organization_id, key_id)


@bp.patch('/keys/<id("key"):key_id>')
@require_permission("keys:write")
@endpoint(
    operation_id="update_key",
    tag="api_keys",
    body=KeyUpdate(),
    returns=KeyOut(),
    errors=(KeyNotFound, KeyInactive, ScopeBeyondRole, FreshLoginRequired),
)
def update(key_id: UUID, body: dict[str, Any]) -> Any:
    """Change an API key's name, scopes, networks, rate limit or expiry from the next request on."""
    return keys.update_key(engine.session(), g.principal, key_id, body)


@bp.post('/keys/<id("key"):key_id>/rotate')
@require_permission("keys:write")
@endpoint(
    operation_id="rotate_key",
    tag="api_keys",
    body=RotateKeyIn(),
    returns=RotatedKeyOut(),
    status=201,
    errors=(
        KeyNotFound,
        KeyInactive,
        RotationInProgress,
        ScopeBeyondRole,
        EmailNotVerified,
        FreshLoginRequired,
    ),
)
def rotate(key_id: UUID, body: dict[str, Any]) -> Any:
    """Rotate the secret, shown this once; the old one stays valid for `grace_seconds`."""
    key = keys.rotate_key(engine.session(), g.principal, key_id, body["grace_seconds"])
    return ViewResult(key, message=_NOT_SHOWN_AGAIN, is_secret=True)


@bp.delete('/keys/<id("key"):key_id>/secrets/old')
@require_permission("keys:write")
@endpoint(operation_id="revoke_old_secret", tag="api_keys", returns=KeyOut(), errors=(KeyNotFound, KeyInactive))
def revoke_old_secret(key_id: UUID) -> Any:
    """Revoke the old secret of a rotated API key before its grace period ends; without one nothing changes."""
    key = keys.revoke_previous_secrets(engine.session(), g.principal, key_id)
    return ViewResult(key, message="The old secret has ended.")


@bp.delete('/keys/<id("key"):key_id>')
@require_permission("keys:write")
@endpoint(operation_id="revoke_key", tag="api_keys", returns=KeyOut(), errors=(KeyNotFound, FreshLoginRequired))
def revoke(key_id: UUID) -> Any:
    """Revoke an API key; its next request is rejected."""
    return ViewResult(keys.revoke_key(engine.session(), g.principal, key_id), message="Revoked.")


@bp.post("/keys/revoke")
@require_permission("keys:write")
@endpoint(
    operation_id="revoke_keys",
    tag="api_keys",
    body=RevokeKeysIn(),
    returns=RevokedKeysOut(),
    errors=(FreshLoginRequired,),
)
def revoke_keys(body: dict[str, Any]) -> Any:
    """Revoke up to 100 API keys: all that can be revoked, or none."""
    return ViewResult(keys.revoke_keys(engine.session(), g.principal, body["key_ids"]), message="Revoked.")


@bp.delete('/team/members/<id("usr"):user_id>')
@require_permission("members:write")
@endpoint(
    operation_id="remove_member",
    tag="organizations",
    query=RemoveMemberQuery(),
    returns=RemovedMemberOut(),
    errors=(FreshLoginRequired, CannotRemoveSelf, MemberNotFound, OwnerRequired),
)
def remove_member(user_id: UUID, query: dict[str, Any]) -> Any:
    """Remove a member; their tokens are rejected from the next request on, and the keys they created are revoked."""
    keys_of_member = keys.remove_member(engine.session(), g.principal, user_id, revokes_keys=query["revoke_keys"])
    return ViewResult(keys_of_member, message="Removed.")


bp.delete('/api-keys/<id("key"):key_id>', endpoint="revoke_api_key")(web_endpoint.alias(revoke, "revoke_api_key"))
