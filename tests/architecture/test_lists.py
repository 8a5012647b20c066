"""Every list of the API pages through the cursors of `core.db.pagination`."""

import re

from flask import Flask
from flask.testing import FlaskClient

from saas_api.core.db.pagination import Keyset
from saas_api.messages.models import Message
from tests.support.accounts import User

FOREIGN_CURSOR = Keyset(Message.segments.desc()).encode([1])


def list_paths(app: Flask) -> set[str]:
    """Path templates of the operations that take a cursor."""
    paths = set()
    for rule in app.url_map.iter_rules():
        operation = getattr(app.view_functions[rule.endpoint], "__operation__", None)
        if operation is not None and operation.query is not None and "cursor" in operation.query.fields:
            paths.add(rule.rule)
    return paths


def test_every_list_rejects_the_cursor_of_another_list(app: Flask, client: FlaskClient, alice: User) -> None:
    body = {"url": "https://acme.example/hook"}
    created = client.post("/api/v1/webhooks/endpoints", json=body, headers=alice.headers)
    endpoint_id = created.json["data"]["id"]
    paths = list_paths(app)
    assert len(paths) >= 10
    responses = {}
    for path in paths:
        url = re.sub(r"<[^>]*endpoint_id>", endpoint_id, path)
        response = client.get(url, query_string={"cursor": FOREIGN_CURSOR}, headers=alice.headers)
        responses[path] = (response.status_code, (response.json or {}).get("error", {}).get("details"))
    reason = {"fields": [{"field": "cursor", "reason": "Not a cursor of this list."}]}
    assert {path: response for path, response in responses.items() if response != (422, reason)} == {}
