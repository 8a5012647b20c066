"""Redis at an address that refuses connections, and Redis that never answers."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from flask import Flask

from saas_api.core.limits import direct_connections

NO_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture
def without_redis(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wake-ups, workers and the scheduler find no Redis during the test; limits still have theirs."""
    pool = direct_connections.low_latency_pool(NO_REDIS)
    monkeypatch.setitem(app.config, "REDIS_URL", NO_REDIS)
    monkeypatch.setitem(app.extensions, "redis", redis.Redis(connection_pool=pool))
    yield
    pool.disconnect()


class HungRedis:
    """A Redis that takes connections and never answers.

    listener: whose connections stay in its queue until they are counted
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.url = f"unix://{listener.getsockname()}"

    def count_connections(self) -> int:
        """Connections since the last count."""
        self._listener.setblocking(False)
        count = 0
        while True:
            try:
                self._listener.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


@contextlib.contextmanager
def run_hung_redis(directory: Path) -> Iterator[HungRedis]:
    """Run a Redis that takes connections and never answers, until the end of the block."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "redis"))
        listener.listen(128)
        yield HungRedis(listener)
