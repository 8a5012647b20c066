"""Who opens the pages."""

import pytest
from flask import Flask

from tests.pages import Browser
from tests.people import Person


@pytest.fixture
def browser(app: Flask, alice: Person) -> Browser:
    """Alice at the pages."""
    return Browser(app, alice)
