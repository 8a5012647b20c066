"""Services at the console: tokens are shown once, calls are counted, and only operators with the role admin change."""

import json
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.services import catalogue, route_file, routes, service_calls, service_tokens, services
from saas_api.services.service_tokens import InvalidServiceToken
from tests.support.accounts import User
from tests.support.console import (
    IN_PLATFORM_LOG,
    Console,
    audit_log,
    check_operator_access,
    error_summary,
    open_console,
)
from tests.support.services import change_service, create_service

LIST, CREATE, PAGE = "/admin/services", "/admin/services/_create", "/admin/services/lookups"
OPENAPI = {"openapi": "3.1.0", "info": {"title": "Lookups", "version": "7"}, "paths": {"/v1/lookups": {}}}


@pytest.fixture
def console(app: Flask, olga: User) -> Console:
    return open_console(app, olga)


def shown_token(response: Any) -> str:
    assert response.status_code == 200, error_summary(response)
    assert response.headers["Cache-Control"] == "no-store"
    token = re.search(r"svc_[0-9A-Za-z]{46}", response.text)
    assert token is not None
    return token[0]


def is_valid(app: Flask, token: str) -> bool:
    with app.app_context():
        try:
            return bool(service_tokens.authenticate(token, "192.0.2.7", catalogue.read_generation()))
        except InvalidServiceToken:
            return False


def test_console_is_for_operators_only(app: Flask, client: FlaskClient, alice: User) -> None:
    create_service(app)
    actions = {f"{PAGE}/{action}": "admin" for action in ("rotate", "revoke", "openapi", "portal")}
    check_operator_access(app, client, alice, {LIST: "support", PAGE: "support", CREATE: "admin", **actions})


def test_created_service_shows_its_token_once(app: Flask, console: Console) -> None:
    assert "No services yet" in console.read(LIST)
    networks, scopes = "192.0.2.0/24\n2001:db8::/32", "lookups:export, lists:read"
    token = shown_token(console.submit_action(CREATE, name="lookups", allowed_ips=networks, scopes=scopes))
    assert is_valid(app, token)
    page = console.read(PAGE)
    for text in (token[:8], "192.0.2.0/24, 2001:db8::/32", "lookups:export", "lists:read", "lookups:write"):
        assert text in page
    assert token not in page
    assert "lookups" in console.read(LIST)
    assert audit_log(app, "service.created") == IN_PLATFORM_LOG
    assert token not in str(audit_log(app, "service.created"))


@pytest.mark.parametrize(
    ("fields", "status", "problem"),
    [
        ({"name": "Lookups"}, 422, "lower-case"),
        ({"name": "archive"}, 409, "This name is taken"),
        ({"name": "lookups", "allowed_ips": "10.0.0.1/8"}, 422, "Not an address"),
        ({"name": "lookups", "scopes": "keys:write"}, 422, "this application has scopes"),
        ({"name": "lookups", "reason": "short"}, 422, "at least 10"),
    ],
)
def test_invalid_service_is_refused(
    app: Flask, console: Console, fields: dict[str, str], status: int, problem: str
) -> None:
    create_service(app, "archive")
    response = console.submit_action(CREATE, **fields)
    assert (response.status_code, problem in response.text) == (status, True)
    assert "lookups" not in console.read(LIST)


def test_rotation_shows_the_new_token_and_the_end_of_the_old_one(app: Flask, console: Console) -> None:
    old = create_service(app)
    assert console.form(f"{PAGE}/rotate")["grace_seconds"] == ["86400"]
    response = console.submit_action(f"{PAGE}/rotate")
    new = shown_token(response)
    assert "The old token is valid until" in response.text
    assert [is_valid(app, token) for token in (old, new)] == [True, True]
    assert console.submit_action(f"{PAGE}/rotate").status_code == 409
    newest = shown_token(console.submit_action(f"{PAGE}/rotate", grace_seconds="0"))
    assert [is_valid(app, token) for token in (old, new, newest)] == [False, False, True]


def test_revoked_service_is_refused_and_offers_nothing(app: Flask, console: Console) -> None:
    token = create_service(app)
    assert console.submit_action(f"{PAGE}/revoke", name="lookup").status_code == 422
    assert is_valid(app, token)
    assert "lookups revoked" in console.run_action(f"{PAGE}/revoke", name="lookups")
    assert not is_valid(app, token)
    assert "/rotate" not in console.read(PAGE)
    assert audit_log(app, "service.revoked") == IN_PLATFORM_LOG
    assert console.submit_action(f"{PAGE}/rotate").status_code == 409


def test_calls_and_refusals_are_shown_by_code(app: Flask, console: Console) -> None:
    create_service(app)
    service_id = change_service(app, services.set_scopes, "lookups", []).id
    with app.app_context():
        for code, seconds in (("VALID", 0.002), ("VALID", 0.004), ("RATE_LIMITED", 0.003)):
            service_calls.count_call(service_id, "verify", code, seconds)
        service_calls.flush_calls()
    page = console.read(PAGE)
    for text in ("1 rejected call", "3.0 ms", "4.0 ms", "ago"):
        assert text in page
    cells = re.findall(
        r"<td data-th=\"[^\"]*\" class=\"num\">([^<]*)|<code>([A-Z_]+)</code>", page[page.index("Calls by operation") :]
    )
    assert ["".join(cell) for cell in cells] == [
        "VALID",
        "2",
        "2",
        "3.0",
        "4.0",
        "RATE_LIMITED",
        "1",
        "1",
        "3.0",
        "3.0",
    ]
    assert "3.0 ms" in console.read(LIST)


def test_routes_are_shown_in_their_order(app: Flask, console: Console) -> None:
    create_service(app)
    assert "No routes yet. Set them from a file" in console.read(PAGE)
    document = [
        {"method": "POST", "path": "/v1/lookups", "permission": "lookups:export", "meter": "sms", "quantity": "2.5"},
        {"method": "PUT", "path": "/v1/{id}", "meter": "sms", "quantity_header": "X-Quantity"},
    ]
    change_service(app, routes.set_routes, "lookups", route_file.load_routes(document))
    page = console.read(PAGE)
    assert page.index("POST /v1/lookups") < page.index("PUT /v1/{id}")
    for text in ("lookups:export", "2.5", "X-Quantity", "without a match are rejected"):
        assert text in page


def test_origins_of_the_portal_are_changed(app: Flask, console: Console) -> None:
    create_service(app)
    form = f"{PAGE}/portal"
    refused = console.submit_action(form, origins="app.example.com")
    assert (refused.status_code, "write an origin in lower case" in refused.text) == (422, True)
    page = console.run_action(form, origins="https://b.example\nhttps://a.example")
    assert "Can be embedded by https://a.example, https://b.example" in page
    assert "https://a.example\nhttps://b.example" in console.open(form).text


def test_openapi_document_is_replaced_and_removed(app: Flask, console: Console) -> None:
    create_service(app)
    form = f"{PAGE}/openapi"
    assert "Version</dt><dd>7" in console.run_action(form, document=json.dumps(OPENAPI))
    for wrong in ("{", "[]", json.dumps({**OPENAPI, "openapi": "2.0"}), json.dumps({**OPENAPI, "x": "\0"})):
        assert console.submit_action(form, document=wrong).status_code == 422
    assert "No document yet." in console.run_action(form, document="").partition("OpenAPI document")[2]


def test_unknown_service_is_not_found(console: Console) -> None:
    assert console.open("/admin/services/nobody").status_code == 404
    assert console.open("/admin/services/nobody/rotate").status_code == 404
