"""Fault tests take minutes: `make faults` asks for them, `FAULTS=long` for the long round."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.stack import QUICK, Stack, wait_until

WORKERS = 4

collect_ignore_glob = [] if os.environ.get("FAULTS") else ["test_*"]


@pytest.fixture
def stack() -> Iterator[Callable[..., Stack]]:
    """Start the whole product on engines of its own; it ends with the test."""
    started: list[Stack] = []

    def start(**settings: Any) -> Stack:
        started.append(Stack({name: str(value) for name, value in settings.items()}))
        started[-1].up()
        return started[-1]

    yield start
    for one in started:
        one.down()


@pytest.fixture(scope="session")
def running() -> Iterator[Stack]:
    """One product for every test that leaves it as it was, with short leases; each signs up companies of its own."""
    one = Stack(dict(QUICK))
    try:
        one.up()
        wait_until(lambda: len(one.pids("worker child")) >= WORKERS and one.pids("scheduler"), 30, "workers")
        yield one
    finally:
        one.down()
