"""Key pages: sessions without a recent password, the keys the API lists, and secrets on pages."""

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support.accounts import AUTH, User
from tests.support.pages import Browser, form_of

KEYS = "/dashboard/api-keys"
NEW = f"{KEYS}/new"


def refresh_session(client: FlaskClient, user: User) -> User:
    """Refresh the session of a user, who then is not recently authenticated."""
    data = client.post(f"{AUTH}/refresh", json={"refresh_token": user.refresh_token}).json["data"]
    return replace(user, token=data["token"], refresh_token=data["refresh_token"])


def list_keys(client: FlaskClient, user: User) -> list[dict[str, Any]]:
    return list(client.get("/api/v1/keys", headers=user.headers).json["data"]["keys"])


def create_live_key(browser: Browser, **fields: Any) -> TestResponse:
    """Fill in the form for a live key, and confirm it; returns the last page."""
    asked = browser.submit(NEW, **{**fields, "mode": "live"})
    assert (asked.status_code, "Create a live key?" in asked.text) == (200, True), asked.text
    return browser.send(NEW, form_of(asked, NEW))


def get_only_key(client: FlaskClient, user: User) -> dict[str, Any]:
    (key,) = list_keys(client, user)
    return key


class PreTexts(HTMLParser):
    """PreTexts of every <pre> of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._is_inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "pre":
            self.texts.append("")
            self._is_inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._is_inside = False

    def handle_data(self, data: str) -> None:
        if self._is_inside:
            self.texts[-1] += data


def displayed_secret(response: TestResponse) -> str:
    return PreTexts(response.text).texts[0]


def usage_status(client: FlaskClient, key: str) -> int:
    return client.get("/api/v1/usage", headers={"X-API-Key": key}).status_code
