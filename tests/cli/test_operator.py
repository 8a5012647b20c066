"""`flask operator`: who runs the platform is decided in a shell, and every change is in the log of acts."""

import json
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask

from saas_api.accounts import users
from saas_api.core import crypto
from saas_api.core.db import tenancy

OLGA = "olga@platform.example"


def operator(app: Flask, *words: str) -> Result:
    return app.test_cli_runner().invoke(args=["operator", *words])


def rows(app: Flask, sql: str, **values: Any) -> list[Any]:
    with app.app_context(), tenancy.system_session("operator.command") as session:
        return list(session.execute(sa.text(sql), values))


def acts(app: Flask) -> list[Any]:
    return rows(app, "SELECT action, actor_type, organization_id, data FROM audit_events ORDER BY id")


def test_a_stranger_becomes_an_operator_with_a_link_to_a_password(app: Flask) -> None:
    outcome = operator(app, "create", OLGA, "--role", "admin")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.startswith(f"{OLGA} is an operator: admin.\n")
    address, _, token = outcome.output.strip().rpartition("?token=")
    assert address.endswith(f"{app.config['APP_URL']}/reset-password")
    found = "SELECT purpose, expires_at > now() AS lives, used_at FROM user_tokens WHERE digest = :digest"
    assert rows(app, found, digest=crypto.sha256(token)) == [("reset_password", True, None)]
    [act] = acts(app)
    assert (act.action, act.actor_type, act.organization_id) == ("operator.created", "system", None)
    assert act.data == {"email": OLGA, "before": {"role": None}, "after": {"role": "admin"}}


def test_somebody_with_an_account_keeps_their_password(app: Flask) -> None:
    with app.app_context(), tenancy.system_session("operator.command") as session:
        users.create(session, OLGA, "correct horse battery", "Olga")
    assert operator(app, "create", "Olga@Platform.example").output == f"{OLGA} is an operator: support.\n"
    with app.app_context(), tenancy.system_session("operator.command") as session:
        assert users.verify_password(users.find_by_email(session, OLGA), "correct horse battery")
    assert rows(app, "SELECT * FROM user_tokens") == []


def test_repeating_it_is_harmless_and_another_role_replaces_the_first(app: Flask) -> None:
    for role in ("support", "support", "admin"):
        assert operator(app, "create", OLGA, "--role", role).exit_code == 0
    assert rows(app, "SELECT role FROM operators") == [("admin",)]
    assert [act.action for act in acts(app)] == ["operator.created", "operator.changed"]


def test_the_list_shows_who_and_since_when(app: Flask) -> None:
    assert operator(app, "list").output == "There are no operators.\n"
    operator(app, "create", OLGA)
    assert operator(app, "list").output.startswith(f"{OLGA} support since 20")
    [shown] = json.loads(operator(app, "list", "--json").output)["operators"]
    assert (shown["email"], shown["role"]) == (OLGA, "support")
    assert shown["user_id"].startswith("usr_")


def test_whoever_is_dismissed_is_an_operator_no_more(app: Flask) -> None:
    operator(app, "create", OLGA)
    assert operator(app, "revoke", OLGA).exit_code == 0
    assert rows(app, "SELECT * FROM operators") == []
    assert [act.action for act in acts(app)] == ["operator.created", "operator.revoked"]
    again = operator(app, "revoke", OLGA)
    assert (again.exit_code, again.output) == (1, f"{OLGA} is no operator; flask operator list shows who is.\n")


@pytest.mark.parametrize("words", [["create", "no address"], ["create", OLGA, "--role", "owner"], ["revoke", "x"]])
def test_what_cannot_be_is_a_wrong_use(app: Flask, words: list[str]) -> None:
    assert operator(app, *words).exit_code == 2
    assert rows(app, "SELECT * FROM operators") == []


def test_naming_no_role_changes_none(app: Flask) -> None:
    operator(app, "create", OLGA, "--role", "admin")
    assert operator(app, "create", OLGA).output == f"{OLGA} is an operator: admin.\n"
