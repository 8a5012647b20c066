"""A browser without scripts: it keeps cookies, reads the forms of a page and submits them."""

from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from typing import Any

import jwt
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from saas_api.accounts.tokens import TokenAudience
from saas_api.core.access import PERMISSIONS
from saas_api.core.roles import ROLES
from tests.support.accounts import User, join, sign_in

ANONYMOUS = "anonymous"


class Page(HTMLParser):
    """The forms of a page, each with its address and what it would send untouched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, list[str]]]] = []
        self._select: str | None = None
        self._area: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((attributes.get("action", ""), {}) if attributes.get("method") == "post" else ("GET", {}))
        elif self.forms and tag == "input" and attributes.get("name"):
            is_choice = attributes.get("type") in ("checkbox", "radio")
            if not is_choice or "checked" in attributes:
                self._add(attributes["name"], attributes.get("value", ""))
        elif tag == "select":
            self._select = attributes.get("name")
        elif tag == "option" and self._select and self.forms:
            if "selected" in attributes or self._select not in self.forms[-1][1]:
                self.forms[-1][1][self._select] = [attributes.get("value", "")]
        elif tag == "textarea" and self.forms:
            self._area = attributes.get("name")

    def handle_data(self, data: str) -> None:
        if self._area:
            self._add(self._area, data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = None
        elif tag == "textarea":
            self._area = None

    def _add(self, name: str, value: str) -> None:
        self.forms[-1][1].setdefault(name, []).append(value)


class Browser:
    """A browser with its own cookies, signed in if there is a user."""

    def __init__(self, app: Flask, user: User | None = None) -> None:
        self.client: FlaskClient = app.test_client()
        if user is not None:
            set_session_cookies(self.client, user.token, user.refresh_token)

    def open(self, path: str, **headers: str) -> TestResponse:
        """Open a page."""
        return self.client.get(path, headers=headers)

    def form(self, page: str, action: str | None = None) -> dict[str, list[str]]:
        """Fields that the unchanged form of a page would submit.

        action: path of the form, by default of the page
        """
        response = self.open(page)
        assert response.status_code == 200, (response.status_code, page)
        return form_of(response, action or page, page)

    def send(self, action: str, fields: Mapping[str, Any]) -> TestResponse:
        """Send a form as it is given."""
        return self.client.post(action, data=fields, headers={"Origin": "http://localhost"})

    def submit(self, page: str, action: str | None = None, **changes: Any) -> TestResponse:
        """Open a page, fill in its form and send it.

        action: path of the form, by default of the page
        """
        fields: dict[str, Any] = {**self.form(page, action), **changes}
        return self.send(action or page.partition("?")[0], {k: v for k, v in fields.items() if v is not None})


def set_session_cookies(client: FlaskClient, token: str, refresh_token: str) -> None:
    """Give a browser the session of tokens of the API; pages accept tokens of their own audience only."""
    for name, value in (("at", token), ("rt", refresh_token)):
        client.set_cookie(name, as_page_token(client.application, value))


def as_page_token(app: Flask, token: str) -> str:
    """The token that a page would have got instead of a token of the API."""
    claims = jwt.decode(token, options={"verify_signature": False}) | {"aud": TokenAudience.PAGES}
    return jwt.encode(claims, app.config["JWT_SECRET"], headers={"kid": jwt.get_unverified_header(token)["kid"]})


def form_of(response: TestResponse, action: str, page: str = "") -> dict[str, list[str]]:
    """What the form with that address would send untouched."""
    path = action.partition("?")[0]
    for address, fields in Page(response.text).forms:
        if (address or page).partition("?")[0] == path:
            return fields
    raise AssertionError(f"no form to {action} on {page}")


def sign_in_again(client: FlaskClient, user: User) -> User:
    """Begin another session of a user, who then is recently authenticated."""
    return sign_in(client, user.email)


def check_access(app: Flask, client: FlaskClient, owner: User, pages: Mapping[str, str | None]) -> None:
    """Open every page in each role: anonymous visitors are redirected to sign in, others get 200 or 403.

    pages: permissions by "GET /path" with real ids; None where every signed-in user has access
    """
    wrong = [
        (ANONYMOUS, path, response.status_code)
        for path in _paths(pages)
        if (response := Browser(app).open(path)).status_code != 303 or "/login?next=" not in response.location
    ]
    for role in ROLES:
        user = owner
        if role != "owner":
            join(app, owner.organization_id, f"{role}@acme.example", role)
            user = sign_in(client, f"{role}@acme.example")
        browser = Browser(app, user)
        for name, permission in pages.items():
            expected = 200 if permission is None or role in PERMISSIONS[permission] else 403
            got = browser.open(name.removeprefix("GET ")).status_code
            if got != expected:
                wrong.append((role, name, got))
    assert not wrong


def _paths(pages: Iterable[str]) -> list[str]:
    return [name.removeprefix("GET ") for name in pages]
