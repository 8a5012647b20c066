"""Fixtures of the pages about messages: a browser and keys."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.accounts import Headers, User, make_key
from tests.support.pages import Browser


@pytest.fixture
def browser(app: Flask, alice: User) -> Browser:
    """Alice at the pages."""
    return Browser(app, alice)


@pytest.fixture
def live(client: FlaskClient, alice: User) -> Headers:
    return make_key(client, alice, name="Live key")


@pytest.fixture
def trial_key(client: FlaskClient, alice: User) -> Headers:
    return make_key(client, alice, name="Test key", mode="test")
