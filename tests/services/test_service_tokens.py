"""Service tokens: who authenticates with one, until when, and from where."""

from datetime import timedelta
from typing import Any

import pytest
from flask import Flask, g
from flask.testing import FlaskClient

from saas_api.core import clock
from saas_api.core.db import tenancy
from saas_api.services import catalogue, service_calls, service_tokens, services, token_format
from saas_api.services.service_tokens import InvalidServiceToken
from tests.support.accounts import User, make_key
from tests.support.services import as_service_view, change_service, create_service, service_headers

HOME = "192.0.2.7"
PROBE, PROBE_ENDPOINT = "/api/v1/webhooks/event-types", "webhooks.list_event_types"


def authenticate(app: Flask, token: str, address: str = HOME) -> str:
    """Authenticate as a call does that reads the generation of the catalogue."""
    with app.app_context():
        return service_tokens.authenticate(token, address, catalogue.read_generation()).name


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json["error"]["code"]


@pytest.fixture
def probe(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that only services may call; it returns the name of the service."""
    monkeypatch.setitem(app.view_functions, PROBE_ENDPOINT, as_service_view(lambda: {"name": g.service.name}))


def test_token_names_its_service(app: Flask) -> None:
    token = create_service(app, "lookups")
    assert token_format.is_well_formed_token(token)
    assert authenticate(app, token) == "lookups"


@pytest.mark.parametrize("at", [4, 43, 44, -1])
def test_token_with_one_wrong_character_is_refused(app: Flask, at: int) -> None:
    token = create_service(app)
    index = at % len(token)
    with pytest.raises(InvalidServiceToken):
        authenticate(app, token[:index] + ("0" if token[index] != "0" else "1") + token[index + 1 :])


@pytest.mark.parametrize("token", ["", "svc_", "svc_" + "٣" * 46, "sk_live_" + "a" * 46])
def test_other_text_is_no_token(app: Flask, token: str) -> None:
    with pytest.raises(InvalidServiceToken):
        authenticate(app, token)


def test_unknown_token_is_refused(app: Flask) -> None:
    create_service(app)
    with pytest.raises(InvalidServiceToken):
        authenticate(app, token_format.generate_token())


def test_both_tokens_of_a_rotation_are_valid_until_the_grace_ends(app: Flask) -> None:
    old = create_service(app)
    new = change_service(app, services.rotate_token, "lookups", 60).token
    assert [authenticate(app, token) for token in (old, new)] == ["lookups"] * 2
    clock.freeze_time(clock.now() + timedelta(seconds=61))
    assert authenticate(app, new) == "lookups"
    with pytest.raises(InvalidServiceToken):
        authenticate(app, old)


def test_rotation_without_grace_ends_every_earlier_token(app: Flask) -> None:
    first = create_service(app)
    second = change_service(app, services.rotate_token, "lookups", 60).token
    third = change_service(app, services.rotate_token, "lookups", 0).token
    assert authenticate(app, third) == "lookups"
    for token in (first, second):
        with pytest.raises(InvalidServiceToken):
            authenticate(app, token)


def test_token_is_taken_from_allowed_networks_only(app: Flask) -> None:
    token = create_service(app, allowed_ips=["192.0.2.0/24", "2001:db8::/32"])
    assert authenticate(app, token, "192.0.2.7") == authenticate(app, token, "2001:db8::1") == "lookups"
    for address in ("198.51.100.1", "2001:db9::1", "invalid"):
        with pytest.raises(InvalidServiceToken):
            authenticate(app, token, address)


def test_digest_moves_to_the_current_pepper(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    token = create_service(app)
    old = app.config["API_KEY_PEPPER"]
    monkeypatch.setitem(app.config, "API_KEY_PEPPER", f"2:{'q' * 32},{old}")
    assert authenticate(app, token) == "lookups"
    monkeypatch.setitem(app.config, "API_KEY_PEPPER", f"2:{'q' * 32}")
    assert authenticate(app, token) == "lookups"
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        assert service_tokens.count_by_pepper(session) == {2: 1}


def test_service_calls_its_endpoints_without_an_organization(app: Flask, client: FlaskClient, probe: None) -> None:
    token = create_service(app)
    assert client.get(PROBE, headers=service_headers(token)).json == {"name": "lookups"}


def test_endpoint_for_services_refuses_everyone_else(client: FlaskClient, alice: User, probe: None) -> None:
    for headers in (
        {},
        alice.headers,
        make_key(client, alice),
        {"Authorization": "Basic abc"},
        service_headers("svc_"),
    ):
        response = client.get(PROBE, headers=headers)
        assert code(response) == (401, "INVALID_SERVICE_TOKEN")
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="api"'


def test_service_token_is_refused_by_every_other_endpoint(app: Flask, client: FlaskClient) -> None:
    token = create_service(app)
    for headers in (service_headers(token), {"X-API-Key": token}):
        for path in ("/api/v1/auth/me", "/api/v1/messages"):
            assert code(client.get(path, headers=headers)) == (401, "INVALID_SERVICE_TOKEN")


def test_new_token_is_taken_by_an_endpoint_that_compares_the_generation_itself(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = as_service_view(lambda: {"name": g.service.name}, is_generation_compared=True)
    monkeypatch.setitem(app.view_functions, PROBE_ENDPOINT, view)
    first = create_service(app, "first")
    assert client.get(PROBE, headers=service_headers(first)).json == {"name": "first"}
    second = create_service(app, "second")
    assert client.get(PROBE, headers=service_headers(second)).json == {"name": "second"}


def test_every_call_of_a_service_is_counted(app: Flask, client: FlaskClient, probe: None) -> None:
    token = create_service(app)
    client.get(PROBE, headers=service_headers(token))
    client.post("/api/v1/keys/verify", json={"key": "sk_live_unknown"}, headers=service_headers(token))
    client.post("/api/v1/keys/verify", json={}, headers=service_headers(token))
    for events in ([], [{"id": "1", "type": "nothing", "subject": "nobody"}]):
        client.post("/api/v1/events", json={"events": events}, headers=service_headers(token))
    client.post("/api/v1/holds", json={"key": "sk", "meter": "sms", "quantity": 1}, headers=service_headers(token))
    with app.app_context(), tenancy.system_session("demo.seed") as session:
        service = services.get_service(session, "lookups")
        service_calls.flush_calls()
        calls = service_calls.read_calls(session, service.id, timedelta(days=1))
        session.refresh(service)
        assert service.last_seen_at is not None
    assert {(row.operation, row.code, row.calls) for row in calls} == {
        ("webhooks", "VALID", 1),
        ("verify", "NOT_FOUND", 1),
        ("verify", "VALIDATION_ERROR", 1),
        ("events", "VALID", 1),
        ("events", "REJECTED", 1),
        ("holds", "NOT_FOUND", 1),
    }
