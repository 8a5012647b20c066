"""Control of the pool on which batches are sent: threads wait behind a connection that a test holds."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from flask import Flask

from saas_api.core.db import engine, group_commit
from saas_api.core.db.engine import db
from saas_api.core.ids import NIL_UUID

WAIT_SECONDS = 20


@contextmanager
def single_connection(app: Flask, monkeypatch: pytest.MonkeyPatch, *, wait_seconds: float = 30) -> Iterator[None]:
    """Let the pool of batches have one connection, and a process write one transaction at a time, until the block ends.

    With two at a time, which batches share a transaction depends on which thread wakes up first.

    wait_seconds: for the connection, before PoolTimeout
    """
    options = {**app.config["SQLALCHEMY_ENGINE_OPTIONS"], "pool_size": 1, "max_overflow": 0}
    with monkeypatch.context() as patch:
        patch.setattr(group_commit, "MAX_TRANSACTIONS", 1)
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


def call_in_a_group(app: Flask, calls: Sequence[Callable[[], None]]) -> list[Exception | None]:
    """Call functions in a thread each, so that what they write is in one transaction, behind others that wait.

    returns: what each of them raised
    """
    raised: list[Exception | None] = [None] * len(calls)

    def call(position: int) -> None:
        with app.app_context():
            try:
                calls[position]()
            except Exception as error:  # noqa: BLE001 - the test looks at it
                raised[position] = error

    def write_another() -> None:
        with app.app_context():
            group_commit.write(NIL_UUID, [("SELECT 1", {})])

    writer = group_commit.writer_of(db.engine)
    threads = [threading.Thread(target=write_another) for _ in range(group_commit.MAX_TRANSACTIONS)]
    with held_connection():
        for thread in threads:
            thread.start()
        wait_until(lambda: writer.writing == len(threads))
        for position in range(len(calls)):
            threads.append(threading.Thread(target=call, args=(position,)))
            threads[-1].start()
            wait_until(lambda: len(writer.waiting) == position + 1)  # noqa: B023 - it is called at once
    for thread in threads:
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive(), "a thread waits for ever"
    return raised


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    ends_at = time.monotonic() + WAIT_SECONDS
    while not is_true():
        assert time.monotonic() < ends_at, "it did not happen"
        time.sleep(0.001)
