"""A separate mailbox for each test, and an SMTP server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.support import smtp_server
from tests.support.faults import inject_fault  # noqa: F401 - a fixture
from tests.support.smtp_server import Received


@pytest.fixture(autouse=True)
def instance(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(app.config, "INSTANCE", str(tmp_path))
    return tmp_path


@pytest.fixture
def use_smtp(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the SMTP settings of one test."""

    def change(port: int, security: str = "none", **others: Any) -> None:
        for name, value in {"HOST": "localhost", "PORT": port, "TLS": security, **others}.items():
            monkeypatch.setitem(app.config, f"SMTP_{name}", value)

    return change


@pytest.fixture
def server(use_smtp: Callable[..., None]) -> Iterator[Received]:
    received = Received()
    with smtp_server.listening(received) as port:
        use_smtp(port)
        yield received
