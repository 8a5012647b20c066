"""The cast of the tests: alice owns acme, bob is its member, carol has a company of her own, olga will operate."""

from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.accounts import users
from saas_api.accounts.models import Membership
from saas_api.core import ids
from saas_api.core.db import tenancy

PASSWORD = "correct horse battery"
AUTH = "/api/v1/auth"

Headers = dict[str, str]


@dataclass(frozen=True)
class Person:
    """Somebody who signed in, as the answer told them."""

    email: str
    user_id: str
    organization_id: str
    role: str
    token: str
    refresh_token: str

    @property
    def headers(self) -> Headers:
        """What they send with every request."""
        return {"Authorization": f"Bearer {self.token}"}


def sign_up(client: FlaskClient, email: str, company: str, **changes: Any) -> Person:
    """Somebody new, with a company of that name."""
    body = {"organization_name": company, "email": email, "password": PASSWORD, **changes}
    return _person(client.post(f"{AUTH}/register", json=body), 201)


def sign_in(client: FlaskClient, email: str, password: str = PASSWORD) -> Person:
    """A further session of somebody."""
    return _person(client.post(f"{AUTH}/login", json={"email": email, "password": password}), 200)


def join(app: Flask, organization_id: str, email: str, role: str) -> None:
    """Somebody new in a company that exists, without the detour of an invitation."""
    with app.app_context(), tenancy.system_session("auth.register") as session:
        user = users.create(session, email, PASSWORD, "")
        session.add(Membership(organization_id=ids.parse_id("org", organization_id), user_id=user.id, role=role))


def make_key(client: FlaskClient, person: Person, **options: Any) -> Headers:
    """The headers of a new key of a person's company."""
    answer = client.post("/api/v1/keys", json={"name": "key", **options}, headers=person.headers)
    assert answer.status_code == 201, answer.json
    return {"X-API-Key": answer.json["data"]["key"]}


def _person(answer: Any, status: int) -> Person:
    assert answer.status_code == status, answer.json
    data = answer.json["data"]
    return Person(
        data["user"]["email"],
        data["user"]["id"],
        data["organization"]["id"],
        data["role"],
        data["token"],
        data["refresh_token"],
    )


@pytest.fixture
def alice(client: FlaskClient) -> Person:
    """The owner of acme."""
    return sign_up(client, "alice@acme.example", "Acme")


@pytest.fixture
def bob(app: Flask, client: FlaskClient, alice: Person) -> Person:
    """A member of acme."""
    join(app, alice.organization_id, "bob@acme.example", "member")
    return sign_in(client, "bob@acme.example")


@pytest.fixture
def carol(client: FlaskClient) -> Person:
    """The owner of a company that has nothing to do with acme."""
    return sign_up(client, "carol@carol.example", "Carol & Co")


@pytest.fixture
def olga(client: FlaskClient) -> Person:
    """Somebody who is to be an operator; for now a person like any other."""
    return sign_up(client, "olga@platform.example", "Platform")
