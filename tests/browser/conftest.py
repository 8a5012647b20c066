"""Serves the product on a port and opens windows of a Chromium; without a Chromium these tests are skipped."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Browser

from saas_api.accounts.models import Operator
from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.browser import chromium
from tests.browser.window import Window, new_window
from tests.support.accounts import User, sign_in
from tests.support.pages import as_page_token
from tests.support.serving import served

OpenWindow = Callable[..., Window]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests; every window has cookies of its own."""
    path = chromium.find()
    if path is None:
        pytest.skip(chromium.NONE_FOUND)
    with chromium.started(path) as running:
        yield running


@pytest.fixture(scope="session")
def address(browser: Browser, app: Flask) -> Iterator[str]:
    """The address of the product, which is served for the whole run."""
    with served(app) as url:
        yield url


@pytest.fixture
def site(address: str, app: Flask, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the product, set as APP_URL; webhooks to this machine are allowed."""
    monkeypatch.setitem(app.config, "APP_URL", address)
    monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", ["127.0.0.0/8"])
    return address


@pytest.fixture
def open_window(browser: Browser, site: str) -> Iterator[OpenWindow]:
    """Open windows; the test fails at its end when one recorded a problem."""
    windows: list[Window] = []
    with ExitStack() as stack:

        def open_new(**options: Any) -> Window:
            windows.append(stack.enter_context(new_window(browser, site, **options)))
            return windows[-1]

        yield open_new
    problems = [problem for window in windows for problem in window.problems]
    assert not problems, "\n".join(problems)


@pytest.fixture
def window(open_window: OpenWindow) -> Window:
    """A window without a session."""
    return open_window()


def use_session(window: Window, user: User) -> None:
    """Set the session cookies of a user in a window."""
    app = user.client.application
    cookies = {"at": as_page_token(app, user.token), "rt": as_page_token(app, user.refresh_token)}
    window.context.add_cookies([{"name": name, "value": value, "url": window.url} for name, value in cookies.items()])


@pytest.fixture
def operator(app: Flask, open_window: OpenWindow, client: FlaskClient, olga: User) -> Window:
    """A window in which olga is signed in as an operator."""
    with app.app_context(), tenancy.system_session("operator.command") as session:
        session.add(Operator(user_id=ids.parse_id("usr", olga.user_id), role="admin"))
    window = open_window()
    use_session(window, sign_in(client, olga.email))
    return window
