"""What the tests of pages about keys look at."""

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support.accounts import AUTH, Person

KEYS = "/dashboard/api-keys"
NEW = f"{KEYS}/new"


def stale(client: FlaskClient, person: Person) -> Person:
    """The person with a session that goes on: their password was not asked lately."""
    data = client.post(f"{AUTH}/refresh", json={"refresh_token": person.refresh_token}).json["data"]
    return replace(person, token=data["token"], refresh_token=data["refresh_token"])


def listed(client: FlaskClient, person: Person) -> list[dict[str, Any]]:
    return list(client.get("/api/v1/keys", headers=person.headers).json["data"]["keys"])


def only(client: FlaskClient, person: Person) -> dict[str, Any]:
    (key,) = listed(client, person)
    return key


class Texts(HTMLParser):
    """Texts of every <pre> of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._is_inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "pre":
            self.found.append("")
            self._is_inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._is_inside = False

    def handle_data(self, data: str) -> None:
        if self._is_inside:
            self.found[-1] += data


def secret_in(answer: TestResponse) -> str:
    return Texts(answer.text).found[0]


def opens(client: FlaskClient, key: str) -> int:
    return client.get("/api/v1/usage", headers={"X-API-Key": key}).status_code
