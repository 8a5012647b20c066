"""Users of the tests: alice owns Acme, bob is its member, carol owns another organization, olga becomes an operator."""

from dataclasses import dataclass, field
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
class User:
    """A signed-in user in one organization, from the response to the sign-up or sign-in."""

    email: str
    user_id: str
    organization_id: str
    role: str
    token: str
    refresh_token: str
    client: FlaskClient = field(repr=False, compare=False)

    @property
    def headers(self) -> Headers:
        return {"Authorization": f"Bearer {self.token}"}

    def call(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        """Call the API and return the status with the data of the response, or with the code of its error."""
        response = self.client.open(f"/api/v1{path}", method=method, headers=self.headers, json=body or None)
        assert response.json is not None
        return response.status_code, response.json.get("data", response.json.get("error", {}).get("code"))


def sign_up(client: FlaskClient, email: str = "alice@acme.example", organization: str = "Acme", **fields: Any) -> User:
    """Sign up the owner of a new organization."""
    body = {"organization_name": organization, "email": email, "password": PASSWORD, **fields}
    return _user(client, client.post(f"{AUTH}/register", json=body), 201)


def sign_in(client: FlaskClient, email: str, password: str = PASSWORD, **fields: Any) -> User:
    """Begin another session of a user."""
    body = {"email": email, "password": password, **fields}
    return _user(client, client.post(f"{AUTH}/login", json=body), 200)


def join(app: Flask, organization_id: str, email: str, role: str, full_name: str = "") -> None:
    """Make a user a member of an organization without an invitation; creates a user who does not exist."""
    with app.app_context(), tenancy.system_session("auth.register") as session:
        user = users.find_by_email(session, email) or users.create_user(session, email, PASSWORD, full_name)
        session.add(Membership(organization_id=ids.parse_id("org", organization_id), user_id=user.id, role=role))


def add_member(owner: User, email: str, role: str, full_name: str = "") -> User:
    """Make a user a member of the owner's organization and sign them in there."""
    join(owner.client.application, owner.organization_id, email, role, full_name)
    return sign_in(owner.client, email, organization_id=owner.organization_id)


def create_key(client: FlaskClient, user: User, **options: Any) -> tuple[str, Headers]:
    """Create an API key and return its id and the headers that authenticate with it."""
    response = client.post("/api/v1/keys", json={"name": "key", **options}, headers=user.headers)
    assert response.status_code == 201, response.json
    key = response.json["data"]
    return key["id"], {"X-API-Key": key["key"]}


def make_key(client: FlaskClient, user: User, **options: Any) -> Headers:
    """Create an API key and return the headers that authenticate with it."""
    return create_key(client, user, **options)[1]


def _user(client: FlaskClient, response: Any, status: int) -> User:
    assert response.status_code == status, response.json
    data = response.json["data"]
    return User(
        data["user"]["email"],
        data["user"]["id"],
        data["organization"]["id"],
        data["role"],
        data["token"],
        data["refresh_token"],
        client,
    )


@pytest.fixture
def alice(client: FlaskClient) -> User:
    """The owner of Acme."""
    return sign_up(client)


@pytest.fixture
def bob(alice: User) -> User:
    """A member of Acme."""
    return add_member(alice, "bob@acme.example", "member")


@pytest.fixture
def carol(client: FlaskClient) -> User:
    """The owner of an organization unrelated to Acme."""
    return sign_up(client, "carol@carol.example", "Carol & Co")


@pytest.fixture
def olga(client: FlaskClient) -> User:
    """A user that tests make an operator."""
    return sign_up(client, "olga@platform.example", "Platform")
