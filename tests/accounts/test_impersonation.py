"""Impersonation: an operator views an organization as a viewer, read-only, for an hour."""

from datetime import timedelta

import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import impersonation, users
from saas_api.accounts.audit import Actor, OperatorContext
from saas_api.accounts.impersonation import OperatorRoleRequired
from saas_api.accounts.models import Operator
from saas_api.accounts.organizations import OrganizationNotFound
from saas_api.core import clock, ids
from saas_api.core.db import engine, tenancy
from saas_api.core.errors import ValidationFailed
from tests.support.accounts import Headers, User

OLGA = "olga@platform.example"
REASON = "ticket 4711: wrong figures"


def grant_role(app: Flask, role: str) -> None:
    with app.app_context(), tenancy.system_session("operator.command") as session:
        user = users.find_by_email(session, OLGA) or users.create_user(session, OLGA, "correct horse battery", "Olga")
        session.merge(Operator(user_id=user.id, role=role))


def operator_context(reason: str = REASON) -> OperatorContext:
    with tenancy.system_session("operator.command") as session:
        user = users.find_by_email(session, OLGA)
    return OperatorContext(Actor("operator", str(user.id if user else ids.new_id())), reason)


def impersonate(app: Flask, user: User) -> Headers:
    with app.app_context():
        token, _ = impersonation.start_impersonation(ids.parse_id("org", user.organization_id), operator_context())
    return {"Authorization": f"Bearer {token}"}


def test_impersonating_operator_reads_as_a_viewer(app: Flask, client: FlaskClient, alice: User) -> None:
    grant_role(app, "admin")
    headers = impersonate(app, alice)
    me = client.get("/api/v1/auth/me", headers=headers).json["data"]
    assert (me["role"], me["organization"]["id"], me["user"]["email"]) == ("viewer", alice.organization_id, OLGA)
    for path in ("/usage", "/billing/calculate", "/billing/history", "/keys", "/messages", "/dashboard/stats"):
        assert client.get(f"/api/v1{path}", headers=headers).status_code == 200, path


def test_impersonating_operator_cannot_write(app: Flask, client: FlaskClient, alice: User) -> None:
    grant_role(app, "admin")
    headers = impersonate(app, alice)
    assert client.post("/api/v1/keys", json={"name": "mine"}, headers=headers).status_code == 403
    assert client.patch("/api/v1/organization", json={"name": "Mine"}, headers=headers).status_code == 403


def test_impersonation_transaction_is_read_only_in_postgresql(app: Flask, alice: User) -> None:
    organization_id = ids.parse_id("org", alice.organization_id)
    with app.test_request_context():
        tenancy.bind_request(organization_id, is_read_only=True)
        with pytest.raises(sa.exc.InternalError, match="read-only transaction"):
            engine.session().execute(sa.text("UPDATE organizations SET name = 'Mine'"))
        engine.session().rollback()


def test_impersonation_and_its_reason_are_in_the_audit_log(app: Flask, client: FlaskClient, alice: User) -> None:
    grant_role(app, "admin")
    impersonate(app, alice)
    response = client.get("/api/v1/organization/audit-log?action=organization.looked_at", headers=alice.headers)
    [entry] = response.json["data"]["entries"]
    assert entry["data"]["reason"] == REASON
    assert OLGA not in response.text


def test_impersonation_ends_after_an_hour(app: Flask, client: FlaskClient, alice: User) -> None:
    grant_role(app, "admin")
    headers = impersonate(app, alice)
    with time_machine.travel(clock.now() + timedelta(minutes=61)):
        assert client.get("/api/v1/usage", headers=headers).json["error"]["code"] == "TOKEN_EXPIRED"


def test_impersonation_ends_when_the_operator_role_is_revoked(app: Flask, client: FlaskClient, alice: User) -> None:
    grant_role(app, "admin")
    headers = impersonate(app, alice)
    grant_role(app, "support")
    assert client.get("/api/v1/usage", headers=headers).status_code == 401


def test_impersonation_reads_from_the_addresses_of_operators_only(
    app: Flask, client: FlaskClient, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small: ADMIN_ALLOWED_IPS covered the console, and not the API that its token reads."""
    grant_role(app, "admin")
    headers = impersonate(app, alice)
    monkeypatch.setitem(app.config, "ADMIN_ALLOWED_IPS", ["203.0.113.0/24"])
    assert client.get("/api/v1/usage", headers=headers).json["error"]["code"] == "PERMISSION_DENIED"
    office = {"REMOTE_ADDR": "203.0.113.7"}
    assert client.get("/api/v1/usage", headers=headers, environ_base=office).status_code == 200
    assert client.post("/api/v1/auth/logout", headers=headers).status_code == 200


def test_impersonation_requires_an_admin_operator_and_a_reason(app: Flask, alice: User) -> None:
    organization_id = ids.parse_id("org", alice.organization_id)
    with app.app_context():
        with pytest.raises(OperatorRoleRequired):
            impersonation.start_impersonation(organization_id, operator_context())
        grant_role(app, "support")
        with pytest.raises(OperatorRoleRequired):
            impersonation.start_impersonation(organization_id, operator_context())
        grant_role(app, "admin")
        with pytest.raises(ValidationFailed):
            impersonation.start_impersonation(organization_id, operator_context("because"))
        with pytest.raises(OrganizationNotFound):
            impersonation.start_impersonation(ids.new_id(), operator_context())


def test_impersonating_operator_cannot_change_their_own_account(app: Flask, client: FlaskClient, alice: User) -> None:
    grant_role(app, "admin")
    headers = impersonate(app, alice)
    body = {"current_password": "correct horse battery", "new_password": "a better horse battery"}
    assert client.post("/api/v1/auth/change-password", json=body, headers=headers).status_code == 403
    assert client.post("/api/v1/auth/logout", headers=headers).status_code == 200
    assert client.get("/api/v1/usage", headers=headers).status_code == 401
