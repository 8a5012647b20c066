"""One served platform for all tests of the client, and a proxy before it that fails as networks do."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from clients.python.tests.platform_service import METERS
from clients.python.tests.unreliable_proxy import UnreliableProxy, run_proxy
from saas_api_client import Client
from tests.support import metering, services
from tests.support.accounts import User
from tests.support.serving import served


@pytest.fixture(autouse=True)
def _outside_of_any_loop() -> Iterator[None]:
    """Hide the event loop that a browser of earlier tests keeps running in this thread: programs start without one."""
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)


@pytest.fixture(scope="session")
def _platform(app: Flask) -> Iterator[str]:
    with served(app) as url:
        yield url


@pytest.fixture
def platform(_platform: str, app: Flask) -> str:
    """URL of the platform; rows are deleted after each test."""
    return _platform


@pytest.fixture(scope="session")
def _proxy(_platform: str) -> Iterator[UnreliableProxy]:
    with run_proxy(_platform) as proxy:
        yield proxy


@pytest.fixture
def proxy(_proxy: UnreliableProxy, app: Flask) -> UnreliableProxy:
    """A proxy before the platform that passes everything on until told otherwise."""
    _proxy.script.clear()
    _proxy.always = None
    _proxy.headers = {}
    _proxy.requests.clear()
    return _proxy


@pytest.fixture
def customer(platform: str, alice: User) -> Iterator[Client]:
    """A client with alice's access token."""
    with Client(platform, alice.token) as client:
        yield client


@pytest.fixture
def key(customer: Client) -> Any:
    """An API key of alice."""
    return customer.keys.create("first key")


@pytest.fixture
def service_token(app: Flask, platform: str) -> str:
    """Token of the service `lookups`, whose meters are those of the examples."""
    for meter in METERS:
        metering.publish_meter(app, **json.loads(meter.read_text(encoding="utf-8")))
    return services.create_service(app, "lookups", scopes=["chat:write"])


@pytest.fixture
def create_key(customer: Client, service_token: str) -> Callable[..., Any]:
    """A function that creates an API key of alice with scopes of the service."""

    def create(*scopes: str, **options: Any) -> Any:
        return customer.keys.create("for the service", scopes=scopes, **options)

    return create


@pytest.fixture
def service_key(create_key: Callable[..., Any]) -> Any:
    """An API key of alice for the service."""
    return create_key("lookups:write", "chat:write", "usage:read")


@pytest.fixture
def service(platform: str, service_token: str) -> Iterator[Client]:
    """A client with the service's token."""
    with Client(platform, service_token) as client:
        yield client
