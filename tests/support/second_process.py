"""A second web process on the same engines, of the test."""

import contextlib
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from config import load
from saas_api.app import create_app
from tests.support import forks


class WebProcess:
    """A web process that handles one request at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def call(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> dict[str, Any]:
        """Send a request and return `status`, `json` and `headers` of the response."""
        self._connection.send((method, path, headers, body))
        return dict(self._connection.recv())


@contextlib.contextmanager
def web_process(config: dict[str, Any], **changes: Any) -> Iterator[WebProcess]:
    """Run a web process with changed settings until the end of the block."""
    settings = {**forks.engines_of(config), **changes}
    with forks.talking(_serve, settings, environment={}) as connection:
        yield WebProcess(connection)


def _serve(connection: Connection, settings: dict[str, Any]) -> None:
    client = create_app(load(env_file=None, **settings)).test_client()
    while True:
        method, path, headers, body = connection.recv()
        response = client.open(path, method=method, headers=headers, json=body)
        connection.send(
            {
                "status": response.status_code,
                "json": response.json,
                "headers": dict(response.headers),
            }
        )
