"""The product on a port of its own and a Chromium before it; without a Chromium these tests are skipped."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Browser

from saas_api.accounts import operators
from saas_api.core import ids
from saas_api.core.db import tenancy
from tests.browser import chromium
from tests.browser.serving import served
from tests.browser.visitor import Visitor, visiting
from tests.support.accounts import Person, sign_in

Visits = Callable[..., Visitor]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all; every visitor has a window with cookies of their own."""
    path = chromium.find()
    if path is None:
        pytest.skip(chromium.NONE_FOUND)
    with chromium.started(path) as running:
        yield running


@pytest.fixture(scope="session")
def address(browser: Browser, app: Flask) -> Iterator[str]:
    """Where the product is served for the whole run."""
    with served(app) as found:
        yield found


@pytest.fixture
def site(address: str, app: Flask, monkeypatch: pytest.MonkeyPatch) -> str:
    """The product's address, which it knows as its own; receivers on this machine may be told."""
    monkeypatch.setitem(app.config, "APP_URL", address)
    monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", ["127.0.0.0/8"])
    return address


@pytest.fixture
def visit(browser: Browser, site: str) -> Iterator[Visits]:
    """Begin a visit; when the test ends, no visitor's page may have misbehaved."""
    visitors: list[Visitor] = []
    with ExitStack() as stack:

        def begin(**options: Any) -> Visitor:
            visitors.append(stack.enter_context(visiting(browser, site, **options)))
            return visitors[-1]

        yield begin
    problems = [problem for visitor in visitors for problem in visitor.problems]
    assert not problems, "\n".join(problems)


@pytest.fixture
def visitor(visit: Visits) -> Visitor:
    """Somebody who comes for the first time."""
    return visit()


def enter(visitor: Visitor, person: Person) -> None:
    """Give a visitor the session of somebody who has just signed in."""
    cookies = {"at": person.token, "rt": person.refresh_token}
    visitor.context.add_cookies([{"name": name, "value": value, "url": visitor.url} for name, value in cookies.items()])


@pytest.fixture
def operator(app: Flask, visit: Visits, client: FlaskClient, olga: Person) -> Visitor:
    """Olga at her browser, who runs the platform."""
    with app.app_context(), tenancy.system_session("operator.command") as session:
        operators.grant_operator_role(session, ids.parse_id("usr", olga.user_id), "admin")
    visitor = visit()
    enter(visitor, sign_in(client, olga.email))
    return visitor
