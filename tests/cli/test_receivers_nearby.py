"""`make run` lets webhooks go to receivers on this machine, unless it is told otherwise."""

from typing import Any

import pytest
from flask import Flask

from saas_api.cli.dev.up import LOOPBACK, _children


def allowed() -> set[str]:
    return {child._environment["WEBHOOK_ALLOWED_NETWORKS"] for child in _children()}


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
