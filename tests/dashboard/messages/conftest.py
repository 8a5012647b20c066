"""Who opens the pages, and with which keys messages are sent."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.pages import Browser
from tests.people import Headers, Person, make_key


@pytest.fixture
def browser(app: Flask, alice: Person) -> Browser:
    """Alice at the pages."""
    return Browser(app, alice)


@pytest.fixture
def live(client: FlaskClient, alice: Person) -> Headers:
    return make_key(client, alice, name="Live key")


@pytest.fixture
def trial_key(client: FlaskClient, alice: Person) -> Headers:
    return make_key(client, alice, name="Test key", mode="test")
