"""`flask keys`: a created key works and is shown once; a revoked key is rejected by every process."""

import json
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient

from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.support.accounts import User


def run_keys(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["keys", *arguments])


def audit_events(app: Flask, user: User) -> list[Any]:
    sql = "SELECT action, actor_type, actor_id FROM audit_events WHERE action LIKE 'api_key.%' ORDER BY id"
    with app.app_context(), tenancy.tenant_session(ids.parse_id("org", user.organization_id)) as session:
        return [tuple(row) for row in session.execute(sa.text(sql))]


def create_key(app: Flask, user: User, *options: str) -> dict[str, Any]:
    result = run_keys(
        app, "create", "--organization", user.organization_id, "--name", "night batch", "--json", *options
    )
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def test_created_key_works_and_is_masked_in_the_list(app: Flask, client: FlaskClient, alice: User) -> None:
    key = create_key(app, alice, "--mode", "test", "--scopes", "messages:read,messages:write")
    headers = {"X-API-Key": key["key"]}
    assert client.get("/api/v1/messages", headers=headers).status_code == 200
    assert client.get("/api/v1/usage", headers=headers).status_code in (403, 404)
    listed = run_keys(app, "list", "--organization", alice.organization_id)
    assert key["masked"] in listed.stdout
    assert key["key"] not in listed.stdout
    [item] = json.loads(run_keys(app, "list", "--organization", alice.organization_id, "--json").stdout)["keys"]
    assert (item["mode"], item["scopes"]) == ("test", ["messages:read", "messages:write"])


def test_json_output_of_a_key_equals_the_response_of_the_api(app: Flask, client: FlaskClient, alice: User) -> None:
    created = create_key(app, alice)
    read = client.get(f"/api/v1/keys/{created['id']}", headers=alice.headers).json["data"]  # type: ignore[index]
    listed = run_keys(app, "list", "--organization", alice.organization_id, "--json")
    assert json.loads(listed.stdout) == {"keys": [read]}
    assert created == {**read, "key": created["key"], "organization_id": alice.organization_id}
    revoked = json.loads(run_keys(app, "revoke", created["id"], "--json").stdout)
    assert revoked == client.get(f"/api/v1/keys/{created['id']}", headers=alice.headers).json["data"]  # type: ignore[index]


def test_revoked_key_is_rejected_and_stays_revoked(app: Flask, client: FlaskClient, alice: User) -> None:
    key = create_key(app, alice)
    assert client.get("/api/v1/messages", headers={"X-API-Key": key["key"]}).status_code == 200
    for _ in range(2):
        result = run_keys(app, "revoke", key["id"])
        assert result.exit_code == 0, result.stderr
        assert "is revoked" in result.stdout
    assert client.get("/api/v1/messages", headers={"X-API-Key": key["key"]}).status_code == 401


def test_creation_and_revocation_record_the_os_user(app: Flask, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "root-of-host")
    run_keys(app, "revoke", create_key(app, alice)["id"])
    assert audit_events(app, alice) == [
        ("api_key.created", "system", "root-of-host"),
        ("api_key.revoked", "system", "root-of-host"),
    ]


@pytest.mark.parametrize(
    "options",
    [["--scopes", "everything"], ["--scopes", ","], ["--mode", "both"], ["--name", " "], ["--name", "x" * 101]],
)
def test_invalid_options_create_no_key(app: Flask, alice: User, options: list[str]) -> None:
    result = run_keys(app, "create", "--organization", alice.organization_id, "--name", "key", *options)
    assert result.exit_code == 2
    assert run_keys(app, "list", "--organization", alice.organization_id).stdout == "It has no API keys.\n"


def test_unknown_key_is_an_error(app: Flask) -> None:
    unknown_key = f"key_{1:032x}"
    result = run_keys(app, "revoke", unknown_key)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"There is no API key {unknown_key};")
