"""Access of every role to every page and form, as the view declares it; test_routes rejects one without declaration."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import AnyConverter, UUIDConverter

from saas_api.core import ids
from saas_api.core.access import PERMISSIONS, Access
from saas_api.core.roles import ROLES
from saas_api.core.web.http import PrefixedIdConverter
from tests.support.accounts import User, join, sign_in
from tests.support.pages import Browser

GET, POST = "GET", "POST"
HOME = "/dashboard"


def pages(app: Flask) -> Iterator[tuple[str, str, Access]]:
    """Method, path with unknown ids, and declaration of each page that is not public, but for those of the portal."""
    for rule in app.url_map.iter_rules():
        declared: Access = app.view_functions[rule.endpoint].__access__  # type: ignore[attr-defined]  # decorators put it there
        if declared.is_public or declared.is_for_portal or rule.rule.startswith("/api/"):
            continue
        values = {name: _example(kind) for name, kind in rule._converters.items()}
        built = rule.build(values)
        assert built is not None, rule
        for method in sorted((rule.methods or set()) & {GET, POST}):
            yield method, built[1], declared


def _example(kind: Any) -> Any:
    if isinstance(kind, PrefixedIdConverter | UUIDConverter):
        return ids.new_id()
    return min(kind.items) if isinstance(kind, AnyConverter) else "x"


@pytest.fixture
def browsers(app: Flask, client: FlaskClient, alice: User) -> dict[str, Browser]:
    by_role = {"owner": Browser(app, alice)}
    for role in ROLES[1:]:
        join(app, alice.organization_id, f"{role}@acme.example", role)
        by_role[role] = Browser(app, sign_in(client, f"{role}@acme.example"))
    return by_role


def test_pages_redirect_anonymous_users_to_login(app: Flask) -> None:
    browser, wrong = Browser(app), []
    for method, path, _ in pages(app):
        response = browser.open(path) if method == GET else browser.send(path, {})
        expected = (303, "/login?next=") if method == GET else (401, "")
        if response.status_code != expected[0] or not (response.location or "").startswith(expected[1]):
            wrong.append((method, path, response.status_code))
    assert not wrong


def test_forms_require_a_csrf_token(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    wrong = [path for method, path, _ in pages(app) if method == POST and browser.send(path, {}).status_code != 400]
    assert not wrong


def test_role_without_permission_is_rejected(app: Flask, browsers: dict[str, Browser]) -> None:
    tokens = {role: browser.form(HOME, "/preferences")["csrf_token"] for role, browser in browsers.items()}
    wrong = []
    for method, path, declared in pages(app):
        for role, browser in browsers.items():
            if declared.operator_role is None and (
                declared.permission is None or role in PERMISSIONS[declared.permission]
            ):
                continue
            expected = 404 if declared.operator_role else 403
            response = browser.open(path) if method == GET else browser.send(path, {"csrf_token": tokens[role]})
            if response.status_code != expected:
                wrong.append((role, method, path, response.status_code))
    assert not wrong


def test_unknown_and_foreign_ids_are_not_found(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    wrong = []
    for method, path, declared in pages(app):
        if method == GET and declared.operator_role is None and "_0" in path:
            response = browser.open(path)
            if response.status_code != 404:
                wrong.append((path, response.status_code))
    assert not wrong


def test_owner_can_open_every_page(app: Flask, alice: User) -> None:
    browser = Browser(app, alice)
    wrong = []
    for method, path, declared in pages(app):
        if method == GET and declared.operator_role is None and "_0" not in path and not path.endswith("/x"):
            response = browser.open(path)
            response.get_data()  # a streamed one keeps its transaction until it is read
            if response.status_code not in (200, 286, 303):
                wrong.append((path, response.status_code))
    assert not wrong
