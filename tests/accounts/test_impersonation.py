"""An operator looks at an organization: as viewer, for an hour, writing nothing, and the organization knows."""

from datetime import timedelta

import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import impersonation, operators, users
from saas_api.accounts.impersonation import OperatorRoleRequired
from saas_api.accounts.organizations import OrganizationNotFound
from saas_api.core import clock, ids
from saas_api.core.db import engine, tenancy
from saas_api.core.errors import ValidationFailed
from tests.support.accounts import Headers, Person

OLGA = "olga@platform.example"
REASON = "ticket 4711: wrong figures"


def appoint(app: Flask, role: str) -> None:
    with app.app_context(), tenancy.system_session("operator.command") as opened:
        user = users.find_by_email(opened, OLGA) or users.create(opened, OLGA, "correct horse battery", "Olga")
        operators.grant_operator_role(opened, user.id, role)


def look(app: Flask, person: Person) -> Headers:
    with app.app_context():
        token, _ = impersonation.start_impersonation(ids.parse_id("org", person.organization_id), OLGA, REASON)
    return {"Authorization": f"Bearer {token}"}


def test_an_operator_sees_what_a_viewer_sees(app: Flask, client: FlaskClient, alice: Person) -> None:
    appoint(app, "admin")
    headers = look(app, alice)
    me = client.get("/api/v1/auth/me", headers=headers).json["data"]
    assert (me["role"], me["organization"]["id"], me["user"]["email"]) == ("viewer", alice.organization_id, OLGA)
    for path in ("/usage", "/billing/calculate", "/billing/history", "/keys", "/messages", "/dashboard/stats"):
        assert client.get(f"/api/v1{path}", headers=headers).status_code == 200, path


def test_an_operator_who_looks_changes_nothing(app: Flask, client: FlaskClient, alice: Person) -> None:
    appoint(app, "admin")
    headers = look(app, alice)
    assert client.post("/api/v1/keys", json={"name": "mine"}, headers=headers).status_code == 403
    assert client.patch("/api/v1/organization", json={"name": "Mine"}, headers=headers).status_code == 403


def test_postgresql_refuses_what_a_role_would_let_pass(app: Flask, alice: Person) -> None:
    organization_id = ids.parse_id("org", alice.organization_id)
    with app.test_request_context():
        tenancy.bind_request(organization_id, is_read_only=True)
        with pytest.raises(sa.exc.InternalError, match="read-only transaction"):
            engine.session().execute(sa.text("UPDATE organizations SET name = 'Mine'"))
        engine.session().rollback()


def test_the_organization_reads_who_looked_and_why(app: Flask, client: FlaskClient, alice: Person) -> None:
    appoint(app, "admin")
    look(app, alice)
    answer = client.get("/api/v1/organization/audit-log?action=organization.looked_at", headers=alice.headers)
    [entry] = answer.json["data"]["entries"]
    assert entry["data"]["reason"] == REASON
    assert OLGA not in answer.text


def test_it_ends_with_the_hour(app: Flask, client: FlaskClient, alice: Person) -> None:
    appoint(app, "admin")
    headers = look(app, alice)
    with time_machine.travel(clock.now() + timedelta(minutes=61)):
        assert client.get("/api/v1/usage", headers=headers).json["error"]["code"] == "TOKEN_EXPIRED"


def test_it_ends_with_the_office(app: Flask, client: FlaskClient, alice: Person) -> None:
    appoint(app, "admin")
    headers = look(app, alice)
    appoint(app, "support")
    assert client.get("/api/v1/usage", headers=headers).status_code == 401


def test_only_an_admin_operator_looks_and_says_why(app: Flask, alice: Person) -> None:
    organization_id = ids.parse_id("org", alice.organization_id)
    with app.app_context():
        with pytest.raises(OperatorRoleRequired):
            impersonation.start_impersonation(organization_id, OLGA, REASON)
        appoint(app, "support")
        with pytest.raises(OperatorRoleRequired):
            impersonation.start_impersonation(organization_id, OLGA, REASON)
        appoint(app, "admin")
        with pytest.raises(ValidationFailed):
            impersonation.start_impersonation(organization_id, OLGA, "because")
        with pytest.raises(OrganizationNotFound):
            impersonation.start_impersonation(ids.new_id(), OLGA, REASON)


def test_an_operator_who_looks_does_not_even_change_their_own_account(
    app: Flask, client: FlaskClient, alice: Person
) -> None:
    appoint(app, "admin")
    headers = look(app, alice)
    body = {"current_password": "correct horse battery", "new_password": "a better horse battery"}
    assert client.post("/api/v1/auth/change-password", json=body, headers=headers).status_code == 403
    assert client.post("/api/v1/auth/logout", headers=headers).status_code == 200
    assert client.get("/api/v1/usage", headers=headers).status_code == 401
