"""Services outside the application, with their tokens."""

import contextlib
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from flask import Flask

from config import load
from saas_api.accounts.audit import SYSTEM_ACTOR, OperatorContext
from saas_api.app import create_app
from saas_api.core.access import Access
from saas_api.core.db import tenancy
from saas_api.services import catalogue, service_tokens, services
from saas_api.services.service_tokens import InvalidServiceToken
from tests.support import forks
from tests.support.accounts import Headers

PURPOSE = "demo.seed"
OPERATOR = OperatorContext(SYSTEM_ACTOR, "a test")


def create_service(app: Flask, name: str = "lookups", **options: Any) -> str:
    """Create a service and return its token."""
    with app.app_context(), tenancy.system_session(PURPOSE) as session:
        return services.create_service(session, OPERATOR, name, **options).token


def change_service(app: Flask, change: Callable[..., Any], name: str, *arguments: Any, **options: Any) -> Any:
    """Call a function of `services` that changes a service, in a transaction of its own."""
    with app.app_context(), tenancy.system_session(PURPOSE) as session:
        return change(session, name, OPERATOR, *arguments, **options)


def service_headers(token: str) -> Headers:
    """Headers that authenticate with a service token."""
    return {"Authorization": f"Bearer {token}"}


def as_service_view(view: Callable[..., Any], **declared: Any) -> Any:
    """A copy of a view that only services may call."""

    def call(**path: Any) -> Any:
        return view(**path)

    call.__access__ = Access(is_for_services=True, **declared)  # type: ignore[attr-defined]  # decorators set it on views
    return call


@contextlib.contextmanager
def second_process(config: dict[str, Any]) -> Iterator[Callable[[str], str]]:
    """Run another process until the end of the block; yields a function that authenticates a token there.

    It returns the name of the service, or the code of the error.
    """
    with forks.talking(_authenticate_all, forks.engines_of(config), environment={}) as connection:

        def authenticate_there(token: str) -> str:
            connection.send(token)
            return str(connection.recv())

        yield authenticate_there


def _authenticate_all(connection: Connection, settings: dict[str, Any]) -> None:
    application = create_app(load(env_file=None, **settings))
    while True:
        token = connection.recv()
        with application.app_context():
            try:
                connection.send(service_tokens.authenticate(token, "192.0.2.7", catalogue.read_generation()).name)
            except InvalidServiceToken as error:
                connection.send(error.code)
