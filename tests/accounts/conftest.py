"""Alice and bob of Acme, with full names."""

import pytest
from flask.testing import FlaskClient

from tests.support.accounts import User, add_member, sign_up


@pytest.fixture
def alice(client: FlaskClient) -> User:
    """The owner of Acme."""
    return sign_up(client, full_name="Alice")


@pytest.fixture
def bob(alice: User) -> User:
    """A member of Acme."""
    return add_member(alice, "bob@acme.example", "member", "Bob")
