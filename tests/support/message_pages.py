"""Message pages: their paths, the messages the API lists, and CSV downloads."""

import csv
import importlib
import io
from types import ModuleType
from typing import Any

from flask.testing import FlaskClient

from tests.support.accounts import Person

MESSAGES = "/dashboard/messages"
NEW = f"{MESSAGES}/new"


def list_messages(client: FlaskClient, person: Person, **query: str) -> list[dict[str, Any]]:
    answer = client.get("/api/v1/messages", query_string=query, headers=person.headers)
    return list(answer.json["data"]["messages"])


def parse_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


def pages_module() -> ModuleType:
    """Return the module of the pages, whose limits a test may lower."""
    return importlib.import_module("saas_api.dashboard.messages")
