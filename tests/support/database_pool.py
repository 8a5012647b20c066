"""Control of the pool on which batches are sent: threads wait behind a connection that a test holds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from flask import Flask

from saas_api.core.db import engine
from saas_api.core.db.engine import db

WAIT_SECONDS = 20


@contextmanager
def single_connection(app: Flask, monkeypatch: pytest.MonkeyPatch, *, wait_seconds: float = 30) -> Iterator[None]:
    """Let the pool of batches have one connection, until the end of the block in a context of the application.

    wait_seconds: for the connection, before PoolTimeout
    """
    options = {**app.config["SQLALCHEMY_ENGINE_OPTIONS"], "pool_size": 1, "max_overflow": 0}
    with monkeypatch.context() as patch:
        patch.setitem(app.config, "SQLALCHEMY_ENGINE_OPTIONS", {**options, "pool_timeout": wait_seconds})
        engine.use_autocommit_pool.cache_clear()
        pool = engine.use_autocommit_pool(db.engine)
        try:
            yield
        finally:
            pool.dispose()
            engine.use_autocommit_pool.cache_clear()


@contextmanager
def held_connection() -> Iterator[None]:
    """Keep the pool's connection from everybody else until the end of the block."""
    connection = engine.use_autocommit_pool(db.engine).raw_connection()
    try:
        yield
    finally:
        connection.close()


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    ends_at = time.monotonic() + WAIT_SECONDS
    while not is_true():
        assert time.monotonic() < ends_at, "it did not happen"
        time.sleep(0.001)
