"""Fixtures: alice owns Acme, bob is a member, carol owns another organization."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.team import Person, join, sign_up


@pytest.fixture
def alice(app: Flask, client: FlaskClient) -> Person:
    return sign_up(client, "alice@acme.example", "Acme")


@pytest.fixture
def bob(alice: Person) -> Person:
    return join(alice, "bob@acme.example", "member")


@pytest.fixture
def carol(client: FlaskClient) -> Person:
    return sign_up(client, "carol@carol.example", "Carol")
