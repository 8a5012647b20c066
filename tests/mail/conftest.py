"""A separate mailbox for each test."""

from pathlib import Path

import pytest
from flask import Flask


@pytest.fixture(autouse=True)
def instance(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(app.config, "INSTANCE", str(tmp_path))
    return tmp_path
