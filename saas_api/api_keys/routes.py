"""The door to API keys."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from flask import Blueprint, g

from saas_api.api_keys import queries
from saas_api.api_keys import service as api_keys
from saas_api.api_keys.schemas import KeyIn, KeyOut, KeyQuery, NewKeyOut
from saas_api.core.access import require
from saas_api.core.db import session
from saas_api.core.http import Answer, endpoint, page_of

bp = Blueprint("api_keys", __name__)


@bp.post("/keys")
@require("keys:create")
@endpoint(body=KeyIn(), returns=NewKeyOut(), status=201)
def create(body: dict[str, Any]) -> Any:
    """Make an API key; its secret is shown this once."""
    made = api_keys.create(session(), g.principal.organization_id, g.principal.id, **body)
    answer = {**asdict(made.key), "masked": made.key.masked, "key": made.text}
    return Answer(answer, message="Store the key now: it is not shown again.")


@bp.get("/keys")
@require("keys:read")
@endpoint(query=KeyQuery(), returns=page_of("keys", KeyOut()))
def list_keys(query: dict[str, Any]) -> Any:
    """List API keys, newest first."""
    return queries.list_keys(session(), g.principal.organization_id, query)


@bp.get('/keys/<id("key"):key_id>')
@require("keys:read")
@endpoint(returns=KeyOut(), errors=(api_keys.NoSuchKey,))
def show(key_id: UUID) -> Any:
    """Show an API key, never its secret."""
    return api_keys.get(session(), g.principal.organization_id, key_id)


@bp.delete('/keys/<id("key"):key_id>')
@bp.delete('/api-keys/<id("key"):key_id>')
@require("keys:write")
@endpoint(returns=KeyOut(), errors=(api_keys.NoSuchKey,))
def revoke(key_id: UUID) -> Any:
    """Revoke an API key: it is refused on the next request."""
    return Answer(api_keys.revoke(session(), g.principal.organization_id, key_id), message="Revoked.")
