"""Fault tests take minutes and run with `make faults` only; `FAULTS=long` runs more of them."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.stack import QUICK, Stack, wait_until
from tests.support.holds import acme  # noqa: F401 - a fixture

WORKERS = 4

collect_ignore_glob = [] if os.environ.get("FAULTS") else ["test_*"]


@pytest.fixture
def stack() -> Iterator[Callable[..., Stack]]:
    """A function that starts the product on engines of its own; it stops after the test."""
    started: list[Stack] = []

    def start(**settings: Any) -> Stack:
        started.append(Stack({name: str(value) for name, value in settings.items()}))
        started[-1].up()
        return started[-1]

    yield start
    for stack in started:
        stack.down()


@pytest.fixture(scope="session")
def running() -> Iterator[Stack]:
    """One product with short leases for tests that do not stop it; each signs up organizations of its own."""
    stack = Stack(dict(QUICK))
    try:
        stack.up()
        wait_until(lambda: len(stack.pids("worker child")) >= WORKERS and stack.pids("scheduler"), 30, "workers")
        yield stack
    finally:
        stack.down()
