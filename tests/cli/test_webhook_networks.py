"""`make run` allows webhooks to this machine, unless the settings name other networks."""

import pytest
from flask import Flask

from saas_api.cli.commands import up
from saas_api.cli.commands.up import LOOPBACK


def allowed_networks() -> set[str]:
    return {child._environment["WEBHOOK_ALLOWED_NETWORKS"] for child in up._children()}


@pytest.fixture(autouse=True)
def no_variable(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBHOOK_ALLOWED_NETWORKS", raising=False)


def test_loopback_is_allowed_by_default() -> None:
    assert allowed_networks() == {LOOPBACK}


@pytest.mark.parametrize("value", ["", "10.0.0.0/8"])
def test_environment_variable_wins_even_if_empty(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_ALLOWED_NETWORKS", value)
    assert allowed_networks() == {value}


def test_setting_wins(context: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(context.config, "WEBHOOK_ALLOWED_NETWORKS", ["10.0.0.0/8"])
    assert allowed_networks() == {"10.0.0.0/8"}


@pytest.mark.parametrize(
    ("url", "app_url"),
    [("http://localhost:8080", "http://localhost:9001"), ("https://api.example", "https://api.example")],
)
def test_port_option_reaches_every_process_and_a_computed_app_url(
    context: Flask, monkeypatch: pytest.MonkeyPatch, url: str, app_url: str
) -> None:
    for name, value in {"API_PORT": 8080, "APP_URL": url}.items():
        monkeypatch.setitem(context.config, name, value)
    up._listen_on(9001)
    assert {child._environment["API_PORT"] for child in up._children()} == {"9001"}
    assert context.config["APP_URL"] == app_url
