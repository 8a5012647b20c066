"""The door to API keys."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from flask import Blueprint, g

from saas_api.api_keys import queries
from saas_api.api_keys import service as api_keys
from saas_api.api_keys.schemas import KeyChange, KeyIn, KeyOut, KeyQuery, NewKeyOut, RotatedKeyOut, RotateKeyIn
from saas_api.core.access import EmailNotVerified, require
from saas_api.core.db import session
from saas_api.core.http import Answer, alias, endpoint, page_of

bp = Blueprint("api_keys", __name__)


@bp.post("/keys")
@require("keys:create")
@endpoint(
    operation_id="create_key",
    tag="api_keys",
    body=KeyIn(),
    returns=NewKeyOut(),
    status=201,
    errors=(api_keys.ScopeBeyondRole, EmailNotVerified),
)
def create(body: dict[str, Any]) -> Any:
    """Make an API key; its secret is shown this once."""
    made = api_keys.create(session(), g.principal.organization_id, g.principal, **body)
    return _once(made.key, key=made.text)


@bp.get("/keys")
@require("keys:read")
@endpoint(operation_id="list_keys", tag="api_keys", query=KeyQuery(), returns=page_of("keys", KeyOut()))
def list_keys(query: dict[str, Any]) -> Any:
    """List API keys, newest first."""
    return queries.list_keys(session(), g.principal.organization_id, query)


@bp.get('/keys/<id("key"):key_id>')
@require("keys:read")
@endpoint(operation_id="get_key", tag="api_keys", returns=KeyOut(), errors=(api_keys.NoSuchKey,))
def show(key_id: UUID) -> Any:
    """Show an API key, never its secret."""
    return api_keys.get(session(), g.principal.organization_id, key_id)


@bp.patch('/keys/<id("key"):key_id>')
@require("keys:write")
@endpoint(
    operation_id="update_key",
    tag="api_keys",
    body=KeyChange(),
    returns=KeyOut(),
    errors=(api_keys.NoSuchKey, api_keys.KeyEnded, api_keys.ScopeBeyondRole),
)
def change(key_id: UUID, body: dict[str, Any]) -> Any:
    """Change an API key's name, scopes, networks or limit; it acts on the next request."""
    return api_keys.change(session(), g.principal, key_id, body)


@bp.post('/keys/<id("key"):key_id>/rotate')
@require("keys:write")
@endpoint(
    operation_id="rotate_key",
    tag="api_keys",
    body=RotateKeyIn(),
    returns=RotatedKeyOut(),
    status=201,
    errors=(
        api_keys.NoSuchKey,
        api_keys.KeyEnded,
        api_keys.RotationInProgress,
        api_keys.ScopeBeyondRole,
        EmailNotVerified,
    ),
)
def rotate(key_id: UUID, body: dict[str, Any]) -> Any:
    """Give an API key a new secret, shown this once; the old one goes on for `grace_seconds`."""
    made = api_keys.rotate(session(), g.principal, key_id, body["grace_seconds"])
    return _once(made.key, key=made.text, old_expires_at=made.old_expires_at)


@bp.delete('/keys/<id("key"):key_id>')
@require("keys:write")
@endpoint(operation_id="revoke_key", tag="api_keys", returns=KeyOut(), errors=(api_keys.NoSuchKey,))
def revoke(key_id: UUID) -> Any:
    """Revoke an API key: it is refused on the next request."""
    return Answer(api_keys.revoke(session(), g.principal, key_id), message="Revoked.")


bp.delete('/api-keys/<id("key"):key_id>', endpoint="revoke_api_key")(alias(revoke, "revoke_api_key"))


def _once(made: queries.Described, **shown: Any) -> Answer:
    data = {**asdict(made), "masked": made.masked, **shown}
    return Answer(data, message="Store the key now: it is not shown again.", is_secret=True)
