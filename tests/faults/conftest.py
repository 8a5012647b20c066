"""Fault tests take minutes: `make faults` asks for them, `FAULTS=long` for the long round."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.stack import Stack

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
