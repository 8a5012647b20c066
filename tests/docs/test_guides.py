"""The samples of the guides: each call is made as it is written, and each answer is the one that comes."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.docs import guides, samples
from saas_api.metering import refusals
from tests.support.accounts import User, create_key

FOLDER = Path(__file__).resolve().parents[2] / "docs"
GUIDES = sorted((FOLDER / "guides").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
VARYING = re.compile(r"[a-z]+_[0-9a-f]{24,32}|\d{4}-\d\d-\d\dT.*")
"""Ids and times."""


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Language, kind and text of the code blocks of a page."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def call(client: FlaskClient, text: str, variables: Mapping[str, str]) -> Any:
    request = samples.parse_curl(text, {"API": "http://localhost/api/v1", **variables})
    assert request, text
    address = urlsplit(request.url)
    path = f"{address.path}?{address.query}" if address.query else address.path
    return client.open(path, method=request.method, headers=dict(request.headers), json=request.body)


def steady(value: Any) -> Any:
    """A document with ids and times replaced."""
    if isinstance(value, dict):
        return {name: steady(item) for name, item in value.items()}
    if isinstance(value, list):
        return [steady(item) for item in value]
    return "varies" if isinstance(value, str) and VARYING.fullmatch(value) else value


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_calls_of_a_guide_work_and_answer_as_it_says(app: Flask, client: FlaskClient, alice: User, page: Path) -> None:
    key_id, headers = create_key(client, alice, mode="test")
    variables = {"KEY": headers["X-API-Key"], "TOKEN": alice.token, "KEY_ID": key_id}
    answer: Any = None
    for language, kind, text in blocks(page):
        if language == "bash":
            answer = call(client, text, variables)
            assert answer.status_code < 400 or kind == "fails", (text, answer.text)
            if "MESSAGE_ID" not in variables and answer.json.get("data", {}).get("message_id"):
                variables["MESSAGE_ID"] = answer.json["data"]["message_id"]
        elif kind == "answer":
            assert steady(json.loads(text)) == steady(answer.json)
        else:
            assert (page.stem, language) in OTHERWISE_TESTED


OTHERWISE_TESTED = {("rate-limits", "http"), ("rate-limits", "json")}


def test_guide_about_rate_limits_shows_their_headers_and_error(app: Flask, client: FlaskClient, alice: User) -> None:
    shown = {language: text for language, _, text in blocks(FOLDER / "guides" / "rate-limits.md")}
    error = refusals.rate_limit_error(60, 60, 42, "key")
    assert json.loads(shown["json"])["error"] == {
        "code": error.code,
        "message": error.message,
        "details": error.details,
        "request_id": "req_1f0c9b5ad1e24ab7a3c1d2e4",
        "docs": f"{app.config['APP_URL']}/docs/errors/{error.code}",
    }
    _, headers = create_key(client, alice, rate_limit_per_minute=10)
    sent = client.get("/api/v1/messages", headers=headers).headers
    for line in shown["http"].splitlines():
        name, _, value = line.partition(": ")
        assert re.sub(r"\d+", "n", sent[name]) == re.sub(r"\d+", "n", value), name


def test_every_guide_of_the_folder_is_in_the_menu() -> None:
    assert {f"guides/{page.name}" for page in GUIDES} <= {guide.file for guide in guides.GUIDES.values()}
