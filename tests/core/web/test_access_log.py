"""The access log: one line a request with its caller, and no secret; denials have a line of their own."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from saas_api.app import create_app
from saas_api.core import observability
from tests.support.accounts import PASSWORD, User, make_key
from tests.support.messages import SEND, SMS

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def logged(config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> Iterator[tuple[FlaskClient, Lines]]:
    """A client of the product as in production, and a function that returns the lines logged since its last call."""
    client = create_app({**config, "ACCESS_LOG": True}).test_client()
    observability.configure_logging({**config, "APP_ENV": "production"})
    yield client, lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    observability.configure_logging(config)


def test_request_is_one_line_with_caller_route_and_duration(logged: tuple[FlaskClient, Lines], alice: User) -> None:
    client, lines = logged
    key = make_key(client, alice)
    lines()
    response = client.post(SEND, json={**SMS, "message": "never logged"}, headers=key)
    [line] = lines()
    assert line.pop("duration_ms") > 0
    assert line.pop("timestamp").endswith("Z")
    assert line.pop("key_id").startswith("key_")
    assert line == {
        "event": "request",
        "level": "info",
        "logger": "saas_api.core.web.access_log",
        "request_id": response.headers["X-Request-Id"],
        "method": "POST",
        "route": "/api/v1/messages/send",
        "status": 202,
        "code": None,
        "organization_id": alice.organization_id,
        "bytes": response.content_length,
    }


def test_denial_has_a_line_with_its_reason_and_address(logged: tuple[FlaskClient, Lines], alice: User) -> None:
    client, lines = logged
    client.get("/api/v1/messages", headers={"X-API-Key": "sk_live_unknown"})
    request_line, denial = lines()
    assert (request_line["event"], request_line["status"], request_line["code"]) == ("request", 401, "INVALID_API_KEY")
    assert (denial["event"], denial["level"], denial["code"]) == ("access_denied", "warning", "INVALID_API_KEY")
    assert denial["ip"] == "127.0.0.1"
    client.get("/api/v1/auth/me", headers=alice.headers)
    [line] = lines()
    assert (line["status"], line["user_id"]) == (200, alice.user_id)


def test_no_query_body_path_or_credential_is_logged(
    logged: tuple[FlaskClient, Lines], alice: User, capsys: pytest.CaptureFixture[str]
) -> None:
    client, _ = logged
    capsys.readouterr()
    client.get("/verify-email?token=t0p-secret")
    client.get("/invitations/t0p-secret")
    client.post("/api/v1/auth/login", json={"email": alice.email, "password": PASSWORD})
    client.get("/api/v1/auth/me", headers=alice.headers)
    text = capsys.readouterr().err
    assert text.count('"request"') == 4
    for secret in ("t0p-secret", PASSWORD, alice.token, alice.email):
        assert secret not in text


def test_packages_have_levels_of_their_own(config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    observability.configure_logging(
        {**config, "LOG_LEVEL": "warning,saas_api.webhooks=debug,saas_api.webhooks.jobs=error"}
    )
    for name in ("saas_api.mail", "saas_api.webhooks", "saas_api.webhooks.deliveries", "saas_api.webhooks.jobs"):
        observability.get_logger(name).info("seen", module=name)
    text = capsys.readouterr().err
    observability.configure_logging(config)
    assert [name in text for name in ("saas_api.mail", "module=saas_api.webhooks.deliveries", "webhooks.jobs")] == [
        False,
        True,
        False,
    ]
