"""The code of the client's page runs as it stands."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from clients.python.tests.platform_service import recorded
from tests.support.accounts import User

PAGE = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_code_of_the_page_runs(
    app: Flask,
    alice: User,
    platform: str,
    service_token: str,
    create_key: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from clients.python.tests import django_project

    assert django_project.urlpatterns  # its settings are needed to import the guard
    monkeypatch.setenv("SAAS_API_URL", platform)
    monkeypatch.setenv("SAAS_API_TOKEN", service_token)
    key = create_key("lookups:write", "messages:read", "messages:write", "usage:read").key
    names: dict[str, Any] = {"customer_key": key, "__name__": "page"}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
    assert names["status"] == 401
    assert names["settled"].settled_quantity == names["tokens"]
    assert recorded(app, alice, "lookups") == (3, "5.000000")
    assert recorded(app, alice, "tokens") == (2, "1354.000000")
    names["platform"].close()
    names["customer"].close()
