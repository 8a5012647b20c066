"""Access of every caller to every route, compared with one table of permissions; a route that is missing in it fails.

In place of its view, each route has one that returns the organization that the gate has bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from saas_api.core import ids
from saas_api.core.access import PERMISSIONS, SCOPES
from saas_api.core.db import engine
from saas_api.core.roles import ROLES
from tests.architecture.test_routes import access
from tests.support.accounts import Headers, User, add_member, make_key, sign_up
from tests.support.services import create_service, service_headers

SIGNED_IN, SERVICE, SERVICE_OR_OPERATOR = "signed in", "service token", "service token or operator"
FOR_SERVICES = (SERVICE, SERVICE_OR_OPERATOR)
API = "/api/v1"
REQUIRED = {
    "POST /auth/logout": SIGNED_IN,
    "GET /auth/me": SIGNED_IN,
    "GET /auth/sessions": SIGNED_IN,
    "DELETE /auth/sessions/:id": SIGNED_IN,
    "POST /auth/switch-organization": SIGNED_IN,
    "POST /auth/request-email-verification": SIGNED_IN,
    "POST /auth/request-verification": SIGNED_IN,
    "POST /auth/change-password": SIGNED_IN,
    "POST /auth/reauthenticate": SIGNED_IN,
    "POST /organizations": SIGNED_IN,
    "GET /organization": "organization:read",
    "PATCH /organization": "organization:write",
    "GET /organization/audit-log": "audit:read",
    "GET /organization/close": "organization:close",
    "POST /organization/close": "organization:close",
    "POST /team/invite": "members:write",
    "GET /team/members": "members:read",
    "PUT /team/members/:id/role": "members:promote",
    "POST /team/transfer-ownership": "members:promote",
    "POST /team/leave": "members:read",
    "DELETE /team/members/:id": "members:write",
    "DELETE /team/invitations/:id": "members:write",
    "POST /keys": "keys:create",
    "GET /keys": "keys:read",
    "GET /keys/:id": "keys:read",
    "PATCH /keys/:id": "keys:write",
    "POST /keys/:id/rotate": "keys:write",
    "POST /keys/revoke": "keys:write",
    "POST /keys/verify": SERVICE,
    "DELETE /keys/:id": "keys:write",
    "DELETE /keys/:id/secrets/old": "keys:write",
    "DELETE /api-keys/:id": "keys:write",
    "POST /holds": SERVICE,
    "GET /holds/:id": SERVICE,
    "POST /holds/:id/settle": SERVICE,
    "POST /holds/:id/release": SERVICE,
    "POST /messages/send": "messages:write",
    "GET /messages/:id": "messages:read",
    "GET /messages": "messages:read",
    "POST /messages/:id/cancel": "messages:cancel",
    "POST /messages/cancel": "messages:cancel",
    "GET /billing/usage": "usage:read",
    "GET /usage": "usage:read",
    "GET /usage/timeseries": "usage:read",
    "GET /requests": "usage:read",
    "GET /requests/:id": "usage:read",
    "GET /billing/history": "billing:read",
    "GET /billing/invoices/:id": "billing:read",
    "GET /billing/invoices/:id/pdf": "billing:read",
    "POST /billing/invoices/:id/send": "billing:read",
    "GET /billing/invoices/:id/lines/:id/explain": "billing:read",
    "GET /billing/invoices/:id/lines/:id/events.csv": "billing:read",
    "PUT /billing/spend-cap": "spend-cap:write",
    "GET /billing/alerts": "billing:read",
    "POST /billing/initiate-payment": "billing:write",
    "GET /billing/payments": "billing:read",
    "GET /billing/payment-methods": "billing:read",
    "POST /billing/payment-methods": "billing:write",
    "POST /billing/payment-methods/:id/default": "billing:write",
    "DELETE /billing/payment-methods/:id": "billing:write",
    "PUT /billing/auto-pay": "billing:write",
    "PUT /billing/alerts": "spend-cap:write",
    "GET /billing/wallet": "billing:read",
    "GET /billing/credit-notes": "billing:read",
    "GET /billing/calculate": "billing:read",
    "GET /billing/subscription": "billing:read",
    "POST /billing/upgrade": "billing:write",
    "POST /billing/preview-change": "billing:read",
    "POST /billing/simulate": "billing:read",
    "POST /webhooks/endpoints": "webhooks:write",
    "GET /webhooks/endpoints": "webhooks:write",
    "GET /webhooks/endpoints/:id": "webhooks:write",
    "PATCH /webhooks/endpoints/:id": "webhooks:write",
    "DELETE /webhooks/endpoints/:id": "webhooks:write",
    "POST /webhooks/endpoints/:id/rotate-secret": "webhooks:write",
    "POST /webhooks/endpoints/:id/test": "webhooks:write",
    "POST /webhooks/endpoints/:id/recover": "webhooks:write",
    "GET /webhooks/endpoints/:id/deliveries": "webhooks:read",
    "GET /webhooks/deliveries/:id": "webhooks:read",
    "POST /webhooks/deliveries/:id/resend": "webhooks:write",
    "POST /webhooks/deliveries/resend": "webhooks:write",
    "GET /webhooks/events": "webhooks:read",
    "POST /webhooks/events/:id/replay": "webhooks:write",
    "GET /webhooks/event-types": "webhooks:read",
    "POST /events": SERVICE,
    "POST /events/:id/reverse": SERVICE,
    "PUT /organizations/:id/external-id": SERVICE,
    "POST /portal-sessions": SERVICE_OR_OPERATOR,
    "GET /dashboard/stats": "billing:read",
    "GET /dashboard/usage-graph": "usage:read",
    "GET /dashboard/api-keys": "keys:read",
}

SCOPE_OF = {"messages:cancel": "messages:write"}
"""Scope of a permission, where their names differ."""


@dataclass(frozen=True)
class Caller:
    """Credentials with their role or scopes, or of a service."""

    name: str
    headers: Headers
    organization_id: str = ""
    role: str | None = None
    scopes: frozenset[str] = frozenset()
    is_service: bool = False
    is_operator: bool = False

    def expected_response(self, permission: str) -> tuple[int, str]:
        """The response by the table: its status, and the bound organization or the error code."""
        if permission == SERVICE_OR_OPERATOR and self.role is not None:
            return (200, "None") if self.is_operator else (404, "NOT_FOUND")
        if self.is_service or permission in FOR_SERVICES:
            is_admitted = self.is_service and permission in FOR_SERVICES
            return (200, "None") if is_admitted else (401, "INVALID_SERVICE_TOKEN")
        roles = {self.role} if permission == SIGNED_IN else PERMISSIONS[permission]
        if self.role is None and not self.scopes:
            return 401, "UNAUTHORIZED" if roles else "MISSING_API_KEY"
        if self.role is None:
            return (
                (200, self.organization_id)
                if SCOPE_OF.get(permission, permission) in self.scopes
                else (403, "INSUFFICIENT_SCOPE")
            )
        if not roles:
            return 401, "MISSING_API_KEY"
        return (200, self.organization_id) if self.role in roles else (403, "PERMISSION_DENIED")


def methods(app: Flask) -> Iterator[tuple[str, str, Rule]]:
    """Each route that is not public: its name in the table, its method and its rule."""
    for rule in app.url_map.iter_rules():
        if access(app, rule).is_public or not rule.rule.startswith(API):  # tested in test_routes and test_pages
            continue
        path = ":id".join(part.rpartition(">")[2] for part in rule.rule.removeprefix(API).split("<"))
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield f"{method} {path}", method, rule


def test_every_route_requires_what_the_table_says(app: Flask) -> None:
    declared = {name: access(app, rule) for name, _, rule in methods(app)}
    required = {
        name: FOR_SERVICES[declaration.operator_role is not None]
        if declaration.is_for_services
        else declaration.permission or SIGNED_IN
        for name, declaration in declared.items()
    }
    assert required == REQUIRED
    assert {
        declaration.permission: declaration.scope for declaration in declared.values() if declaration.scope
    } == SCOPE_OF


def test_every_caller_is_admitted_as_the_table_says(
    app: Flask, client: FlaskClient, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Caller("service", service_headers(create_service(app)), is_service=True)
    callers = [*users(client, superuser), *keys(client, superuser), service]
    for _, _, rule in methods(app):
        monkeypatch.setitem(app.view_functions, rule.endpoint, report_organization(app, rule))
    wrong = []
    for name, method, rule in methods(app):
        path = rule.build({argument: ids.new_id() for argument in rule.arguments})
        for caller in callers:
            response = client.open(path[1] if path else "", method=method, headers=caller.headers)
            got = response.status_code, response.text if response.status_code == 200 else response.json["error"]["code"]
            if got != caller.expected_response(REQUIRED[name]):
                wrong.append((name, caller.name, got, caller.expected_response(REQUIRED[name])))
    assert wrong == []


def report_organization(app: Flask, rule: Rule) -> Any:
    """A view with the same declaration that returns the organization of its database session."""

    def view(**_: Any) -> str:
        return str(engine.session().scalar(sa.text("SELECT current_organization()")))

    view.__access__ = access(app, rule)  # type: ignore[attr-defined]  # decorators set it on views
    return view


def users(client: FlaskClient, superuser: Any) -> Iterator[Caller]:
    """An anonymous caller, a member of each role, another owner, and an operator who is a viewer elsewhere.

    Each member also owns another organization, which their session does not select.
    """
    yield Caller("anonymous", {})
    owner = sign_up(client)
    acme = _uuid(owner)
    yield Caller("owner", owner.headers, acme, "owner")
    for role in sorted(set(ROLES) - {"owner"}):
        sign_up(client, f"{role}@acme.example", "Own")
        member = add_member(owner, f"{role}@acme.example", role)
        yield Caller(role, member.headers, acme, role)
    carol = sign_up(client, "carol@carol.example", "Carol & Co")
    elsewhere = _uuid(carol)
    yield Caller("owner elsewhere", carol.headers, elsewhere, "owner")
    sign_up(client, "olga@platform.example", "Own")
    olga = add_member(carol, "olga@platform.example", "viewer")
    with superuser, superuser.cursor() as cursor:
        cursor.execute("INSERT INTO operators (user_id, role) SELECT id, 'admin' FROM users WHERE email ~ '^olga'")
    yield Caller("operator", olga.headers, elsewhere, "viewer", is_operator=True)


def _uuid(user: User) -> str:
    return str(ids.parse_id("org", user.organization_id))


def keys(client: FlaskClient, superuser: Any) -> Iterator[Caller]:
    """For each of two organizations: a key with every scope, and one without each scope."""
    for organization, email in (("Keys", "keys@keys.example"), ("Others", "keys@others.example")):
        user = sign_up(client, email, organization)
        organization_id = _uuid(user)
        with superuser, superuser.cursor() as cursor:
            limits = "INSERT INTO organization_limits (organization_id, rate_limit_per_minute, reason)"
            cursor.execute(f"{limits} VALUES (%s, 100000, 'many calls')", (organization_id,))
        yield Caller(f"key of {organization}", make_key(client, user), organization_id, scopes=SCOPES)
        for scope in sorted(SCOPES):
            left = SCOPES - {scope}
            key = make_key(client, user, scopes=sorted(left))
            yield Caller(f"key of {organization} without {scope}", key, organization_id, scopes=left)
