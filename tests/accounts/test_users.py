"""Password verification of users: unknown users, and hashes with outdated parameters."""

from typing import Any

import pytest
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import users
from saas_api.core import crypto
from saas_api.core.crypto import DUMMY_PASSWORD_HASH
from tests.support.accounts import AUTH, PASSWORD, User


@pytest.mark.usefixtures("real_hashing")
def test_dummy_hash_has_the_current_parameters() -> None:
    assert not crypto.needs_rehash(DUMMY_PASSWORD_HASH)


def test_no_password_matches_for_an_unknown_user(context: Flask) -> None:
    assert not users.verify_password(None, PASSWORD)


@pytest.mark.usefixtures("real_hashing")
def test_outdated_hash_is_replaced_at_sign_in(client: FlaskClient, alice: User, superuser: Any) -> None:
    old = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    with superuser, superuser.cursor() as cursor:
        cursor.execute("UPDATE users SET password_hash = %s", [old])
    for _ in range(2):
        response = client.post(f"{AUTH}/login", json={"email": alice.email, "password": PASSWORD})
        assert response.status_code == 200
    with superuser, superuser.cursor() as cursor:
        cursor.execute("SELECT password_hash FROM users")
        (stored,) = cursor.fetchone()
    assert not crypto.needs_rehash(stored)
