"""`flask services`: tokens are shown once and work at once, and files are refused with every problem."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

from saas_api.services import catalogue, service_tokens
from saas_api.services.service_tokens import InvalidServiceToken
from tests.support.console import audit_log

ROUTES = [
    {"method": "POST", "path": "/v1/lookups", "permission": "lookups:write", "meter": "sms", "quantity": "2"},
    {"method": "*", "path": "/v1/files/{path*}"},
]
OPENAPI = {"openapi": "3.0.3", "info": {"title": "Lookups", "version": "1"}, "paths": {"/v1/lookups": {}}}


def run(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["services", *arguments])


def result_of(app: Flask, *arguments: str) -> Any:
    result = run(app, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def is_valid(app: Flask, token: str, address: str = "192.0.2.7") -> bool:
    with app.app_context():
        try:
            return bool(service_tokens.authenticate(token, address, catalogue.read_generation()))
        except InvalidServiceToken:
            return False


def write(folder: Path, document: Any) -> str:
    path = folder / "document.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


def test_created_token_works_from_its_networks_and_is_shown_once(app: Flask) -> None:
    networks = ("--allowed-ips", "192.0.2.0/24,198.51.100.1", "--allowed-ips", "2001:db8::/32")
    created = result_of(app, "create", "lookups", *networks, "--scopes", "lookups:export lists:read")
    assert is_valid(app, created["token"])
    assert is_valid(app, created["token"], "2001:db8::1")
    assert not is_valid(app, created["token"], "203.0.113.1")
    shown = run(app, "show", "lookups")
    assert created["token"] not in shown.stdout
    assert created["token"][:8] in shown.stdout
    row = result_of(app, "show", "lookups")
    assert row["allowed_ips"] == ["192.0.2.0/24", "198.51.100.1/32", "2001:db8::/32"]
    assert row["scopes"] == ["lookups:read", "lookups:write", "lists:read", "lookups:export"]
    assert (row["id"], row["status"], row["last_seen_at"]) == (created["id"], "active", None)


def test_rotated_token_leaves_the_old_one_its_grace(app: Flask) -> None:
    old = result_of(app, "create", "lookups")["token"]
    rotated = result_of(app, "rotate", "lookups", "--grace", "60")
    assert rotated["old_token_ends_at"] is not None
    assert is_valid(app, old)
    assert is_valid(app, rotated["token"])
    refused = run(app, "rotate", "lookups", "--grace", "60")
    assert (refused.exit_code, refused.stderr.partition(":")[0]) == (1, "SERVICE_ROTATION_IN_PROGRESS")
    newest = result_of(app, "rotate", "lookups")
    assert newest["old_token_ends_at"] is None
    assert [is_valid(app, token) for token in (old, rotated["token"], newest["token"])] == [False, False, True]


def test_revoked_service_is_listed_and_refused(app: Flask) -> None:
    token = result_of(app, "create", "lookups")["token"]
    result_of(app, "create", "archive")
    for _ in range(2):
        assert result_of(app, "revoke", "lookups")["revoked_at"]
    assert not is_valid(app, token)
    listed = result_of(app, "list")["services"]
    assert [(row["name"], row["status"], len(row["tokens"])) for row in listed] == [
        ("archive", "active", 1),
        ("lookups", "revoked", 0),
    ]
    assert run(app, "rotate", "lookups").stderr.startswith("SERVICE_REVOKED: ")
    assert run(app, "show", "nobody").stderr.startswith("SERVICE_NOT_FOUND: ")


def test_commands_are_audited_with_the_os_user_and_a_reason(app: Flask) -> None:
    run(app, "create", "lookups")
    run(app, "revoke", "lookups", "--reason", "replaced by numbers")
    assert audit_log(app, "service.created") == [("platform", "system", "flask services create")]
    assert audit_log(app, "service.revoked") == [("platform", "system", "replaced by numbers")]


def test_routes_are_those_of_the_file(app: Flask, tmp_path: Path) -> None:
    result_of(app, "create", "lookups")
    document = {"default": "allow", "routes": ROUTES}
    assert result_of(app, "routes", "lookups", "--file", write(tmp_path, document)) == {"name": "lookups", **document}
    assert result_of(app, "show", "lookups")["routes"] == document


@pytest.mark.parametrize(
    ("document", "exit_code", "problem"),
    [
        ([{"method": "get", "path": "/a"}, {"method": "GET", "path": "b"}], 3, "routes.0.method"),
        ([{"method": "GET", "path": "/a", "meter": "nothing"}], 1, "routes.0.meter: there is no meter nothing"),
        ("[", 3, "not JSON"),
        ("[1] ", 3, "routes.0 must be an object"),
    ],
)
def test_invalid_routes_change_nothing(app: Flask, tmp_path: Path, document: Any, exit_code: int, problem: str) -> None:
    result_of(app, "create", "lookups")
    refused = run(app, "routes", "lookups", "--file", write(tmp_path, document))
    assert refused.exit_code == exit_code
    assert problem in refused.stderr
    assert result_of(app, "show", "lookups")["routes"] == {"default": "deny", "routes": []}


def test_openapi_document_is_stored(app: Flask, tmp_path: Path) -> None:
    result_of(app, "create", "lookups")
    assert result_of(app, "openapi", "lookups", write(tmp_path, OPENAPI)) == {"name": "lookups", "paths": 1}
    assert result_of(app, "show", "lookups")["openapi"] == OPENAPI
    refused = run(app, "openapi", "lookups", write(tmp_path, {"swagger": "2.0"}))
    assert (refused.exit_code, refused.stderr.partition(":")[0]) == (1, "INVALID_OPENAPI_DOCUMENT")


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "Lookups"),
        ("create", "lookups", "--allowed-ips", "10.0.0.1/8"),
        ("create", "lookups", "--scopes", "write"),
        ("create", "lookups", "--scopes", "keys:write"),
        ("rotate", "lookups", "--grace", "604801"),
    ],
)
def test_invalid_value_is_refused_in_one_line(app: Flask, arguments: tuple[str, ...]) -> None:
    refused = run(app, *arguments)
    assert refused.exit_code in (1, 2)
    assert len(refused.stderr.strip().splitlines()) == 1
    assert result_of(app, "list") == {"services": []}


def test_origins_of_the_portal_are_replaced_and_shown(app: Flask) -> None:
    run(app, "create", "lookups")
    listed = ["https://a.example", "https://b.example"]
    assert (
        result_of(app, "portal", "lookups", "--origins", listed[1], "--origins", listed[0])["portal_origins"] == listed
    )
    assert result_of(app, "show", "lookups")["portal_origins"] == listed
    assert "origins: https://a.example/" in run(app, "portal", "lookups", "--origins", "https://a.example/").stderr
    assert run(app, "portal", "lookups").stdout == "lookups: no other site can embed the portal.\n"
