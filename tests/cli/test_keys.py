"""`flask keys`: a key made in a shell works, is shown once, and ends in every process."""

import json
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.support.accounts import Person


def keys(app: Flask, *words: str) -> Result:
    return app.test_cli_runner().invoke(args=["keys", *words])


def acts(app: Flask, person: Person) -> list[Any]:
    sql = "SELECT action, actor_type, actor_id FROM audit_events WHERE action LIKE 'api_key.%' ORDER BY id"
    with app.app_context(), tenancy.tenant_session(ids.parse_id("org", person.organization_id)) as session:
        return [tuple(row) for row in session.execute(sa.text(sql))]


def made(app: Flask, person: Person, *options: str) -> dict[str, Any]:
    done = keys(app, "create", "--organization", person.organization_id, "--name", "night batch", "--json", *options)
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_key_made_in_a_shell_works_and_is_masked_afterwards(app: Flask, client: FlaskClient, alice: Person) -> None:
    key = made(app, alice, "--mode", "test", "--scopes", "messages:read,messages:write")
    headers = {"X-API-Key": key["key"]}
    assert client.get("/api/v1/messages", headers=headers).status_code == 200
    assert client.get("/api/v1/usage", headers=headers).status_code in (403, 404)
    listed = keys(app, "list", "--organization", alice.organization_id)
    assert key["masked"] in listed.stdout
    assert key["key"] not in listed.stdout
    [shown] = json.loads(keys(app, "list", "--organization", alice.organization_id, "--json").stdout)["keys"]
    assert (shown["mode"], shown["scopes"]) == ("test", ["messages:read", "messages:write"])


def test_json_of_a_key_is_the_key_as_the_api_returns_it(app: Flask, client: FlaskClient, alice: Person) -> None:
    created = made(app, alice)
    read = client.get(f"/api/v1/keys/{created['id']}", headers=alice.headers).json["data"]  # type: ignore[index]
    listed = keys(app, "list", "--organization", alice.organization_id, "--json")
    assert json.loads(listed.stdout) == {"keys": [read]}
    assert created == {**read, "key": created["key"], "organization_id": alice.organization_id}
    revoked = json.loads(keys(app, "revoke", created["id"], "--json").stdout)
    assert revoked == client.get(f"/api/v1/keys/{created['id']}", headers=alice.headers).json["data"]  # type: ignore[index]


def test_a_revoked_key_opens_nothing_and_stays_revoked(app: Flask, client: FlaskClient, alice: Person) -> None:
    key = made(app, alice)
    assert client.get("/api/v1/messages", headers={"X-API-Key": key["key"]}).status_code == 200
    for _ in range(2):
        done = keys(app, "revoke", key["id"])
        assert done.exit_code == 0, done.stderr
        assert "is revoked" in done.stdout
    assert client.get("/api/v1/messages", headers={"X-API-Key": key["key"]}).status_code == 401


def test_both_leave_the_name_of_whoever_did_it(app: Flask, alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "root-of-host")
    keys(app, "revoke", made(app, alice)["id"])
    assert acts(app, alice) == [
        ("api_key.created", "system", "root-of-host"),
        ("api_key.revoked", "system", "root-of-host"),
    ]


@pytest.mark.parametrize(
    "options",
    [["--scopes", "everything"], ["--scopes", ","], ["--mode", "both"], ["--name", " "], ["--name", "x" * 101]],
)
def test_what_cannot_be_a_key_makes_none(app: Flask, alice: Person, options: list[str]) -> None:
    done = keys(app, "create", "--organization", alice.organization_id, "--name", "key", *options)
    assert done.exit_code == 2
    assert keys(app, "list", "--organization", alice.organization_id).stdout == "It has no API keys.\n"


def test_a_key_nobody_has_is_an_error(app: Flask) -> None:
    nothing = f"key_{1:032x}"
    done = keys(app, "revoke", nothing)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"There is no API key {nothing};")
