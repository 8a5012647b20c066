"""Fixtures of the pages about API keys."""

import pytest
from flask import Flask

from tests.support.accounts import User
from tests.support.pages import Browser


@pytest.fixture
def browser(app: Flask, alice: User) -> Browser:
    """Alice at the pages."""
    return Browser(app, alice)
