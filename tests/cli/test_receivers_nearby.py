"""`make run` lets webhooks go to receivers on this machine, unless it is told otherwise."""

from typing import Any

import pytest
from flask import Flask

from saas_api.cli.commands import up
from saas_api.cli.commands.up import LOOPBACK


def allowed() -> set[str]:
    return {child._environment["WEBHOOK_ALLOWED_NETWORKS"] for child in up._children()}


@pytest.fixture(autouse=True)
def unset(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBHOOK_ALLOWED_NETWORKS", raising=False)


def test_loopback_is_allowed_where_nothing_is_said() -> None:
    assert allowed() == {LOOPBACK}


@pytest.mark.parametrize("said", ["", "10.0.0.0/8"])
def test_what_the_environment_says_stands_even_if_it_is_empty(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_ALLOWED_NETWORKS", said)
    assert allowed() == {said}


@pytest.mark.parametrize(
    ("settings", "networks"),
    [
        ({"WEBHOOK_ALLOWED_NETWORKS": ["10.0.0.0/8"]}, "10.0.0.0/8"),
        ({"APP_ENV": "production"}, ""),
    ],
)
def test_settings_stand_and_production_allows_nothing(
    context: Flask, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], networks: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setitem(context.config, name, value)
    assert allowed() == {networks}


@pytest.mark.parametrize(
    ("url", "then"),
    [("http://localhost:8080", "http://localhost:9001"), ("https://api.example", "https://api.example")],
)
def test_another_port_goes_to_every_process_and_into_an_address_made_from_it(
    context: Flask, monkeypatch: pytest.MonkeyPatch, url: str, then: str
) -> None:
    for name, value in {"API_PORT": 8080, "APP_URL": url}.items():
        monkeypatch.setitem(context.config, name, value)
    up._listen_on(9001)
    assert {child._environment["API_PORT"] for child in up._children()} == {"9001"}
    assert context.config["APP_URL"] == then
