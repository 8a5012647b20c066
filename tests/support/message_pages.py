"""Message pages: their paths, the messages the API lists, and CSV downloads."""

import csv
import importlib
import io
from types import ModuleType
from typing import Any

from flask.testing import FlaskClient

from tests.support.accounts import User

MESSAGES = "/dashboard/messages"
NEW = f"{MESSAGES}/new"


def list_messages(client: FlaskClient, user: User, **query: str) -> list[dict[str, Any]]:
    response = client.get("/api/v1/messages", query_string=query, headers=user.headers)
    return list(response.json["data"]["messages"])


def parse_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


def pages_module() -> ModuleType:
    """Return the module of the pages, whose limits tests lower."""
    return importlib.import_module("saas_api.dashboard.messages")
