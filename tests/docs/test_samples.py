"""Requests as curl, Python and JavaScript: what the code sends, found by running it."""

import io
import json
import shutil
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.docs import pages, samples
from saas_api.docs.samples import Request
from tests.support.accounts import User, make_key

WRITES_FILES = 'import { writeFile } from "node:fs/promises";\n'
URL = "http://localhost:8080/api/v1"
REQUESTS = [
    Request("GET", f"{URL}/usage?start_date=2026-03-01&mode=live", {"X-API-Key": "sk_test_1"}),
    Request("DELETE", f"{URL}/keys/key_1", {"Authorization": "Bearer token"}),
    Request("POST", f"{URL}/auth/logout"),
    Request(
        "PUT",
        f"{URL}/billing/alerts",
        {"Authorization": "Bearer token", "Idempotency-Key": "one"},
        {
            "alerts": [{"is_on": True, "note": None}, {"is_on": False, "note": 'it\'s "here", é'}],
            "empty": [],
            "a-name": {"long": "x" * 90, "count": 3},
        },
    ),
]


@pytest.fixture(scope="module")
def requests(app: Flask) -> list[Request]:
    """Requests of each kind, and that of every operation."""
    with app.test_request_context():
        operations = [operation for topic in pages.get_portal().topics.values() for operation in topic.operations]
    return [*REQUESTS, *(operation.request for operation in operations if operation.request)]


def plain(item: Request) -> dict[str, Any]:
    return {"method": item.method, "url": item.url, "headers": dict(item.headers), "body": item.body, "file": item.file}


def test_curl_sends_the_request(requests: list[Request]) -> None:
    assert len(requests) > 90
    for request in requests:
        assert samples.parse_curl(samples.render(request, "curl"), {}) == request


def test_python_sends_the_request(requests: list[Request]) -> None:
    sent: list[dict[str, Any]] = []

    def send(method: str) -> Any:
        def call(url: str, headers: Any = None, json: Any = None) -> Any:
            sent.append({"method": method.upper(), "url": url, "headers": headers or {}, "body": json, "file": ""})
            return SimpleNamespace(json=dict, content=b"content")

        return call

    def keep(name: str, _mode: str) -> Any:
        sent[-1]["file"] = name
        return io.BytesIO()

    fake = SimpleNamespace(**{method: send(method) for method in ("get", "post", "put", "patch", "delete")})
    for request in requests:
        text = samples.render(request, "python").removeprefix("import requests\n")
        exec(compile(text, "sample", "exec"), {"requests": fake, "open": keep, "print": lambda *_: None})  # noqa: S102 - our sample
    assert sent == [plain(request) for request in requests]


def test_javascript_sends_the_request(requests: list[Request]) -> None:
    if not shutil.which("node"):
        pytest.skip("there is no node here")
    sources = [
        f"await (async () => {{\n{samples.render(request, 'javascript').removeprefix(WRITES_FILES)}\n}})();"
        for request in requests
    ]
    script = "\n".join(
        [
            "const sent = []; const print = console.log; console.log = () => {};",
            "globalThis.fetch = async (url, init = {}) => { sent.push([url, init, '']); return new Response('{}'); };",
            "const writeFile = async (name) => { sent.at(-1)[2] = name; };",
            *sources,
            "print(JSON.stringify(sent));",
        ]
    )
    result = subprocess.run(
        ["node", "--input-type=module", "-"], input=script, capture_output=True, text=True, check=True, timeout=60
    )
    sent = [
        {
            "method": options.get("method", "GET"),
            "url": url,
            "headers": {n: v for n, v in options.get("headers", {}).items() if n != "Content-Type"},
            "body": json.loads(options["body"]) if "body" in options else None,
            "file": file,
        }
        for url, options, file in json.loads(result.stdout)
    ]
    assert sent == [plain(request) for request in requests]


def test_calls_that_pages_show_beside_a_key_are_accepted(app: Flask, client: FlaskClient, alice: User) -> None:
    key = make_key(client, alice)["X-API-Key"]
    snippets: Any = app.jinja_env.get_template("_snippets.html").module
    for what in ("send", "messages", "usage"):
        request = samples.parse_curl(snippets.curl(key, "http://localhost", what), {})
        assert request
        path = request.url.removeprefix("http://localhost")
        answer = client.open(path, method=request.method, headers=dict(request.headers), json=request.body)
        assert answer.status_code in (200, 202), answer.text


@pytest.mark.parametrize(
    "text",
    [
        "curl $API/usage\ncurl $API/messages",
        "KEY=$(curl $API/keys)",
        "curl -v $API/usage",
        "curl $API/usage $API/messages",
        "curl $API/usage | grep total",
        "curl 'unfinished",
        "echo hello",
    ],
)
def test_text_that_is_more_than_one_call_is_none(text: str) -> None:
    assert samples.parse_curl(text, {}) is None


def test_variables_are_filled_in_and_others_are_named() -> None:
    request = samples.parse_curl('curl $API/messages/$MESSAGE_ID -H "X-API-Key: $KEY"', {"API": URL, "KEY": "sk_1"})
    assert request == Request("GET", f"{URL}/messages/MESSAGE_ID", {"X-API-Key": "sk_1"})
