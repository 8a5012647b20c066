"""What the tests of pages about messages send and look at."""

import csv
import importlib
import io
from collections.abc import Callable
from types import ModuleType
from typing import Any

from flask.testing import FlaskClient

from tests.support.accounts import Headers, Person
from tests.support.messages import SMS

MESSAGES = "/dashboard/messages"
NEW = f"{MESSAGES}/new"
Work = Callable[[], None]


def send(client: FlaskClient, key: Headers, **changes: Any) -> str:
    """The id of a new message."""
    answer = client.post("/api/v1/messages/send", json={**SMS, **changes}, headers=key)
    assert answer.status_code == 202, answer.json
    return str(answer.json["data"]["message_id"])


def listed(client: FlaskClient, person: Person, **query: str) -> list[dict[str, Any]]:
    answer = client.get("/api/v1/messages", query_string=query, headers=person.headers)
    return list(answer.json["data"]["messages"])


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


def pages() -> ModuleType:
    """The module of the pages, whose limits a test may lower."""
    return importlib.import_module("saas_api.dashboard.messages")
