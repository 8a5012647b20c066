"""Objects of another organization get the same 404 as unknown ids, on every route with an id."""

import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from saas_api.billing import period_close
from saas_api.core import clock, ids
from saas_api.core.web.http import PrefixedIdConverter
from tests.architecture.test_routes import access
from tests.support.accounts import Headers, User, create_key, make_key, sign_up
from tests.support.messages import send_message
from tests.support.request_log import record_request


@pytest.fixture
def carols(app: Flask, client: FlaskClient, work: Callable[[], None]) -> dict[str, str]:
    """Ids of carol's objects, one of each kind, by prefix."""
    owner = sign_up(client, "carol@carol.example", "Carol & Co")
    key_id, key = create_key(client, owner)
    message_id = send_message(client, key)
    work()
    response = client.post(
        "/api/v1/team/invite", json={"email": "dan@dan.example", "role": "viewer"}, headers=owner.headers
    )
    sessions = client.get("/api/v1/auth/sessions", headers=owner.headers).json["data"]["sessions"]
    me = client.get("/api/v1/auth/me", headers=owner.headers).json["data"]
    invoice = create_invoice(app, client, owner)
    endpoint, delivery = create_endpoint(client, owner)
    method = client.post("/api/v1/billing/payment-methods", json={"provider": "mock"}, headers=owner.headers)
    return {
        "whe": endpoint,
        "whd": delivery["id"],
        "evt": delivery["event_id"],
        "inv": invoice["id"],
        "lin": invoice["lines"][0]["id"],
        "pmd": method.json["data"]["id"],
        "key": key_id,
        "msg": message_id,
        "ivt": response.json["data"]["invitation_id"],
        "ses": sessions[0]["id"],
        "usr": me["user"]["id"],
        "org": me["organization"]["id"],
        "req": record_request(owner, 422),
    }


def create_invoice(app: Flask, client: FlaskClient, owner: User) -> Any:
    """Close the period now and return its invoice."""
    with app.app_context():
        period_close.close_now(ids.parse_id("org", owner.organization_id))
    [invoice] = client.get("/api/v1/billing/history", headers=owner.headers).json["data"]["invoices"]
    return client.get(f"/api/v1/billing/invoices/{invoice['id']}", headers=owner.headers).json["data"]


def create_endpoint(client: FlaskClient, owner: User) -> tuple[str, Any]:
    """Create an endpoint and return its id and a delivery of a test event."""
    body = {"url": "https://hooks.carol.example/"}
    endpoint = client.post("/api/v1/webhooks/endpoints", json=body, headers=owner.headers).json["data"]["id"]
    path = f"/api/v1/webhooks/endpoints/{endpoint}/test"
    return endpoint, client.post(path, json={"event_type": "webhook.test"}, headers=owner.headers).json["data"]


BODIES = {
    "/role": {"role": "viewer"},
    "/rotate-secret": {"grace_seconds": 0},
    "/test": {"event_type": "webhook.test"},
    "/recover": {"since": (clock.now() - timedelta(hours=1)).isoformat()},
}


def guarded_rules(app: Flask) -> Iterator[tuple[str, Rule]]:
    for rule in app.url_map.iter_rules():
        if not rule.rule.startswith("/api/v1/") or not rule.arguments:
            continue
        if not access(app, rule).is_for_services:  # a service acts for every organization
            yield from ((method, rule) for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}))


def path_of(rule: Rule, ids: dict[str, str]) -> str:
    path = rule.rule.replace("<request_id>", ids["req"])
    for name, converter in rule._converters.items():
        if name == "request_id":
            continue
        assert isinstance(converter, PrefixedIdConverter), f"{rule.rule} has an argument that is no id"
        path = path.replace(f'<id("{converter.prefix}"):{name}>', ids[converter.prefix])
    return path


def error_response(client: FlaskClient, method: str, path: str, headers: Headers, body: Any = None) -> Any:
    response = client.open(path, method=method, headers=headers, json=body)
    body = dict(response.json["error"])
    body.pop("request_id")
    return response.status_code, body


def test_objects_of_carol_are_not_found_by_alice(app: Flask, client: FlaskClient, carols: dict[str, str]) -> None:
    owner = sign_up(client)
    key = make_key(client, owner)
    unknown = {prefix: ids.format_id(prefix, ids.new_id()) for prefix in carols.keys() - {"req"}}
    unknown["req"] = f"req_{'0' * 24}"
    not_found_count = 0
    for (method, rule), caller in itertools.product(list(guarded_rules(app)), (owner.headers, key)):
        body = next((body for end, body in BODIES.items() if rule.rule.endswith(end)), {})
        sent = body if method in ("POST", "PUT", "PATCH") else None
        foreign = error_response(client, method, path_of(rule, carols), caller, sent)
        missing = error_response(client, method, path_of(rule, unknown), caller, sent)
        assert foreign == missing, f"{method} {rule.rule}"
        assert foreign[0] in (404, 403, 401), f"{method} {rule.rule}"
        not_found_count += foreign[0] == 404
    assert not_found_count >= 24


@pytest.mark.parametrize(
    ("path", "field", "prefix"),
    [
        ("/api/v1/team/transfer-ownership", "user_id", "usr"),
        ("/api/v1/auth/switch-organization", "organization_id", "org"),
        ("/api/v1/billing/initiate-payment", "invoice_id", "inv"),
    ],
)
def test_id_of_carol_in_a_body_is_rejected_like_an_unknown_id(
    client: FlaskClient, carols: dict[str, str], path: str, field: str, prefix: str
) -> None:
    owner = sign_up(client)
    responses = [
        error_response(client, "POST", path, owner.headers, {field: each})
        for each in (carols[prefix], ids.format_id(prefix, ids.new_id()))
    ]
    assert responses[0] == responses[1]
    assert responses[0][0] in (404, 422)


@pytest.mark.parametrize(
    ("path", "plural"),
    [
        ("/api/v1/messages", "messages"),
        ("/api/v1/keys", "keys"),
        ("/api/v1/billing/history", "invoices"),
        ("/api/v1/webhooks/endpoints", "endpoints"),
        ("/api/v1/webhooks/events", "events"),
        ("/api/v1/team/members", "pending_invitations"),
    ],
)
def test_lists_of_alice_contain_nothing_of_carol(
    client: FlaskClient, carols: dict[str, str], path: str, plural: str
) -> None:
    owner = sign_up(client)
    response = client.get(path, headers=owner.headers)
    assert response.status_code == 200
    assert response.json["data"][plural] == []


def test_alice_sees_only_her_members_sessions_and_audit_events(client: FlaskClient, carols: dict[str, str]) -> None:
    owner = sign_up(client)
    members = client.get("/api/v1/team/members", headers=owner.headers).json["data"]["members"]
    assert [member["email"] for member in members] == ["alice@acme.example"]
    assert len(client.get("/api/v1/auth/sessions", headers=owner.headers).json["data"]["sessions"]) == 1
    log = client.get("/api/v1/organization/audit-log", headers=owner.headers)
    assert log.status_code == 200
    assert not [foreign for foreign in carols.values() if foreign.partition("_")[2] in log.text]


def test_figures_of_alice_do_not_count_messages_of_carol(client: FlaskClient, carols: dict[str, str]) -> None:
    owner = sign_up(client)
    assert client.get("/api/v1/usage", headers=owner.headers).json["data"]["summary"]["total_requests"] == 0
    assert client.get("/api/v1/billing/calculate", headers=owner.headers).json["data"]["total_requests"] == 0
    assert client.get("/api/v1/dashboard/stats", headers=owner.headers).json["data"]["stats"]["total_api_keys"] == 0
