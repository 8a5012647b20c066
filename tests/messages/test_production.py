"""The built-in service in production: no provider, the mock where it is allowed, and switched off."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.app import create_app
from saas_api.core.db.engine import db
from tests.support.accounts import sign_in
from tests.support.messages import SEND, SMS, MessagingOrganization, Work, provider_calls, rows


@pytest.fixture
def acme(client: FlaskClient) -> MessagingOrganization:
    return MessagingOrganization(client, "Acme", "alice@acme.example")


@pytest.fixture
def production(app: Flask, acme: MessagingOrganization, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.config, "APP_ENV", "production")


def test_live_message_is_refused_in_production_without_a_provider(
    app: Flask, acme: MessagingOrganization, production: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O4: the mock neither delivers nor bills live messages of production unless it is allowed to."""
    refused = acme.client.post(SEND, json=SMS, headers=acme.live)
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "NO_MESSAGE_PROVIDER")
    assert rows(app, acme.id, "SELECT 1 FROM usage_events") == []
    assert acme.send(acme.test)["mode"] == "test"
    monkeypatch.setitem(app.config, "MESSAGES_ALLOW_MOCK", True)
    assert acme.send()["mode"] == "live"


def test_queued_live_message_waits_when_its_provider_is_gone(
    app: Flask, acme: MessagingOrganization, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O4: a message that was accepted before is tried again and not lost."""
    message_id = acme.send()["message_id"]
    monkeypatch.setitem(app.config, "APP_ENV", "production")
    work()
    shown = acme.show(message_id)
    assert (shown["status"], shown["attempts"]) == ("queued", 1)
    assert provider_calls(app) == []


def test_service_that_is_switched_off_has_neither_api_nor_pages(
    app: Flask, config: dict[str, Any], acme: MessagingOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O4: with SERVICES=none the API does not know messages, and the dashboard does not show them."""
    without = create_app({**config, "SERVICES": []})
    client = without.test_client()
    assert client.post(SEND, json=SMS, headers=acme.live).status_code == 404
    assert "/api/v1/messages/send" not in client.get("/api/v1/openapi.json").json["paths"]
    alice = sign_in(client, acme.owner.email)
    permissions = client.get("/api/v1/auth/me", headers=alice.headers).json["data"]["permissions"]
    assert [name for name in permissions if name.startswith("messages:")] == []
    with without.app_context():
        db.engine.dispose()
