"""Alice and bob of Acme, with full names."""

import pytest
from flask.testing import FlaskClient

from tests.support.accounts import Person, add_member, sign_up


@pytest.fixture
def alice(client: FlaskClient) -> Person:
    """The owner of Acme."""
    return sign_up(client, full_name="Alice")


@pytest.fixture
def bob(alice: Person) -> Person:
    """A member of Acme."""
    return add_member(alice, "bob@acme.example", "member", "Bob")
