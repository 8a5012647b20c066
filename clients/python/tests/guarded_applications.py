"""The same guarded application in each framework, called without a server."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

import httpx

from saas_api_client import AsyncClient, Client, Verification


class Application:
    """An application with the routes `/lookups`, `/fails`, `/open` and `/healthz`."""

    def __init__(self, post: Callable[[str, Mapping[str, str]], httpx.Response]) -> None:
        self.post = post


def flask_application(
    url: str,
    token: str,
    *,
    fail_open: bool = False,
    seconds: float = 15.0,
    policy: Mapping[str, Any] | None = None,
    exempt: Collection[str] = (),
) -> Application:
    from flask import Flask, g

    from saas_api_client.flask import ApiKeys, Policy

    app = Flask("guarded")
    api_keys = ApiKeys(Client(url, token, total_timeout_seconds=seconds), fail_open=fail_open)
    api_keys.init_app(app, policy=Policy(**policy) if policy else None, exempt=exempt)

    @app.post("/lookups")
    @api_keys.require(permission="lookups:write", meter="lookups")
    def create() -> dict[str, Any]:
        return {"customer": g.verification and g.verification.organization_id}

    @app.post("/fails")
    @api_keys.require(meter="lookups")
    def fail() -> None:
        raise RuntimeError("a fault of the application")

    @app.post("/open")
    @app.post("/healthz")
    def answer() -> dict[str, Any]:
        return {}

    return Application(_caller(lambda: httpx.Client(transport=httpx.WSGITransport(app, raise_app_exceptions=False))))


def fastapi_application(
    url: str,
    token: str,
    *,
    fail_open: bool = False,
    seconds: float = 15.0,
    policy: Mapping[str, Any] | None = None,
    exempt: Collection[str] = (),
) -> Application:
    from fastapi import Depends, FastAPI

    from saas_api_client.fastapi import ApiKeyMiddleware, Policy, require_key

    def make() -> Any:
        app = FastAPI()
        app.add_middleware(
            ApiKeyMiddleware,
            client=AsyncClient(url, token, total_timeout_seconds=seconds),
            fail_open=fail_open,
            policy=Policy(**policy) if policy else None,
            exempt=exempt,
        )
        lookup = Depends(require_key(permission="lookups:write", meter="lookups"))

        @app.post("/lookups")
        async def create(caller: Annotated[Verification | None, lookup]) -> dict[str, Any]:
            return {"customer": caller and caller.organization_id}

        @app.post("/fails", dependencies=[Depends(require_key(meter="lookups"))])
        async def fail() -> None:
            raise RuntimeError("a fault of the application")

        @app.post("/open")
        @app.post("/healthz")
        async def answer() -> dict[str, Any]:
            return {}

        return app

    return Application(_asynchronous_caller(make))


def django_application(
    url: str,
    token: str,
    *,
    fail_open: bool = False,
    seconds: float = 15.0,
    policy: Mapping[str, Any] | None = None,
    exempt: Collection[str] = (),
) -> Application:
    from clients.python.tests import django_project

    options = {"CLIENT": Client(url, token, total_timeout_seconds=seconds), "FAIL_OPEN": fail_open, "EXEMPT": exempt}
    app = django_project.application({**options, "POLICY": policy} if policy else options)
    return Application(_caller(lambda: httpx.Client(transport=httpx.WSGITransport(app, raise_app_exceptions=False))))


def _caller(open_client: Callable[[], httpx.Client]) -> Callable[[str, Mapping[str, str]], httpx.Response]:
    def post(path: str, headers: Mapping[str, str]) -> httpx.Response:
        with open_client() as client:
            return client.post(f"http://localhost{path}", headers=dict(headers))

    return post


def _asynchronous_caller(make: Callable[[], Any]) -> Callable[[str, Mapping[str, str]], httpx.Response]:
    async def call(path: str, headers: Mapping[str, str]) -> httpx.Response:
        transport = httpx.ASGITransport(make(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.post(f"http://localhost{path}", headers=dict(headers))

    return lambda path, headers: asyncio.run(call(path, headers))


FRAMEWORKS = {"flask": flask_application, "fastapi": fastapi_application, "django": django_application}
