"""`flask operator`: operators are created, changed and revoked, and each change is in the audit log."""

import json
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import users
from saas_api.core import crypto
from saas_api.core.db import tenancy
from tests.support.accounts import AUTH, PASSWORD, sign_up

OLGA = "olga@platform.example"


def operator(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["operator", *arguments])


def execute_sql(app: Flask, sql: str, **values: Any) -> list[Any]:
    with app.app_context(), tenancy.system_session("operator.command") as session:
        return list(session.execute(sa.text(sql), values))


def audit_events(app: Flask) -> list[Any]:
    return execute_sql(app, "SELECT action, actor_type, organization_id, data FROM audit_events ORDER BY id")


def test_new_address_becomes_an_operator_with_a_password_link(app: Flask) -> None:
    outcome = operator(app, "create", OLGA, "--role", "admin")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.startswith(f"{OLGA} is an operator: admin.\n")
    address, _, token = outcome.output.strip().rpartition("?token=")
    assert address.endswith(f"{app.config['APP_URL']}/reset-password")
    token_sql = "SELECT purpose, expires_at > now() AS lives, used_at FROM user_tokens WHERE digest = :digest"
    assert execute_sql(app, token_sql, digest=crypto.sha256(token)) == [("reset_password", True, None)]
    [event] = audit_events(app)
    assert (event.action, event.actor_type, event.organization_id) == ("operator.created", "system", None)
    assert event.data == {"email": OLGA, "before": {"role": None}, "after": {"role": "admin"}}


def password_works(app: Flask) -> bool:
    with app.app_context(), tenancy.system_session("operator.command") as session:
        return users.verify_password(users.find_by_email(session, OLGA), "correct horse battery")


def test_create_changes_the_role_and_repeats_without_effect(app: Flask) -> None:
    for role in ("support", "support", "admin"):
        assert operator(app, "create", OLGA, "--role", role).exit_code == 0
    assert execute_sql(app, "SELECT role FROM operators") == [("admin",)]
    assert [event.action for event in audit_events(app)] == ["operator.created", "operator.changed"]


def test_list_shows_address_role_and_time(app: Flask) -> None:
    assert operator(app, "list").output == "There are no operators.\n"
    operator(app, "create", OLGA)
    assert operator(app, "list").output.startswith(f"{OLGA} support since 20")
    [row] = json.loads(operator(app, "list", "--json").output)["operators"]
    assert (row["email"], row["role"]) == (OLGA, "support")
    assert row["user_id"].startswith("usr_")


def test_revoked_operator_is_removed_once(app: Flask) -> None:
    operator(app, "create", OLGA)
    assert operator(app, "revoke", OLGA).exit_code == 0
    assert execute_sql(app, "SELECT * FROM operators") == []
    assert [event.action for event in audit_events(app)] == ["operator.created", "operator.revoked"]
    again = operator(app, "revoke", OLGA)
    assert (again.exit_code, again.output) == (1, f"{OLGA} is no operator; flask operator list shows who is.\n")


@pytest.mark.parametrize("arguments", [["create", "no address"], ["create", OLGA, "--role", "owner"], ["revoke", "x"]])
def test_invalid_arguments_are_usage_errors(app: Flask, arguments: list[str]) -> None:
    assert operator(app, *arguments).exit_code == 2
    assert execute_sql(app, "SELECT * FROM operators") == []


def test_create_without_a_role_keeps_the_role(app: Flask) -> None:
    operator(app, "create", OLGA, "--role", "admin")
    assert operator(app, "create", OLGA).output == f"{OLGA} is an operator: admin.\n"


def register(app: Flask, *, is_verified: bool) -> None:
    with app.app_context(), tenancy.system_session("operator.command") as session:
        user = users.create_user(session, OLGA, "correct horse battery", "Olga")
        if is_verified:
            users.mark_email_verified(session, user)


@pytest.mark.parametrize("arguments", [[], ["--existing"]])
def test_account_with_an_unverified_address_never_becomes_an_operator(app: Flask, arguments: list[str]) -> None:
    """G1: an address that is not verified may be anyone's, so its password must not open the console."""
    register(app, is_verified=False)
    outcome = operator(app, "create", OLGA, *arguments)
    assert outcome.exit_code == 1
    assert "verified" in outcome.output or "--existing" in outcome.output
    assert execute_sql(app, "SELECT * FROM operators") == []
    assert password_works(app)


def test_account_that_exists_becomes_an_operator_only_when_that_is_said(app: Flask) -> None:
    """G1: an account is promoted with --existing alone."""
    register(app, is_verified=True)
    assert "give --existing" in operator(app, "create", OLGA).output
    assert execute_sql(app, "SELECT * FROM operators") == []
    assert password_works(app)


def test_account_that_becomes_an_operator_loses_its_password_and_sessions(app: Flask, client: FlaskClient) -> None:
    """G1: only a new password opens the console, and the link that sets it is printed."""
    olga = sign_up(client, "olga@elsewhere.example", "Elsewhere")
    execute_sql(app, "UPDATE users SET email_verified_at = now() WHERE email = 'olga@elsewhere.example' RETURNING 1")
    outcome = operator(app, "create", "olga@elsewhere.example", "--existing", "--role", "admin", "--json")
    assert "/reset-password?token=" in json.loads(outcome.stdout)["password_link"]
    assert client.get(f"{AUTH}/me", headers=olga.headers).status_code == 401
    login = {"email": "olga@elsewhere.example", "password": PASSWORD}
    assert client.post(f"{AUTH}/login", json=login).status_code == 401
    token = json.loads(outcome.stdout)["password_link"].rpartition("=")[2]
    reset = {"token": token, "new_password": "another horse battery"}
    assert client.post(f"{AUTH}/reset-password", json=reset).status_code == 200
