"""Counts limits elsewhere than in the Redis of the run, and finds organizations by the node that counts theirs."""

import contextlib
from collections.abc import Iterator
from uuid import uuid4

import pytest

from saas_api.core.limits import backends, direct_connections, limiter
from saas_api.core.limits.backends import Backend
from tests.support.redis_servers import RedisCluster, RedisServer

PATIENCE_SECONDS = 10


def connect(url: str, monkeypatch: pytest.MonkeyPatch, seconds: float = PATIENCE_SECONDS) -> Backend:
    """A backend with time-outs that a busy machine does not exceed, or with others."""
    monkeypatch.setattr(direct_connections, "TIMEOUT_SECONDS", seconds)
    return backends.connect(url)


@contextlib.contextmanager
def counting_in(url: str, seconds: float = PATIENCE_SECONDS) -> Iterator[Backend]:
    """Let the application of this process count its limits there until the end of the block."""
    with pytest.MonkeyPatch.context() as patch:
        backend = connect(url, patch, seconds)
        patch.setattr(limiter.get_storage(), "backend", backend)
        yield backend


def key_on(cluster: RedisCluster, node: RedisServer) -> str:
    """A new key of a node."""
    while True:
        key = f"{{{uuid4()}}}:test"
        if cluster.owner_of(key) is node:
            return key
