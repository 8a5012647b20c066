"""Another web process on the same engines: it takes calls and says what it answered, and how fast."""

import contextlib
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from config import load
from saas_api.app import create_app
from tests.support import forks


class Neighbour:
    """A web process that takes one call at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def call(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> dict[str, Any]:
        """What it answered: `status`, `seconds`, `json`, `headers`."""
        self._connection.send((method, path, headers, body))
        return dict(self._connection.recv())


@contextlib.contextmanager
def neighbour(config: dict[str, Any], **changes: Any) -> Iterator[Neighbour]:
    """A neighbour for the length of a `with` block, with changed settings."""
    settings = {**forks.engines_of(config), **changes}
    with forks.talking(_serve, settings, environment={}) as connection:
        yield Neighbour(connection)


def _serve(connection: Connection, settings: dict[str, Any]) -> None:
    client = create_app(load(env_file=None, **settings)).test_client()
    while True:
        method, path, headers, body = connection.recv()
        began = time.monotonic()
        answer = client.open(path, method=method, headers=headers, json=body)
        connection.send(
            {
                "status": answer.status_code,
                "seconds": time.monotonic() - began,
                "json": answer.json,
                "headers": dict(answer.headers),
            }
        )
