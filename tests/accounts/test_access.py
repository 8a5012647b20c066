"""Access to the operations of /auth without credentials, with a key and as a member."""

import pytest
from flask.testing import FlaskClient

from tests.support.accounts import AUTH, User, make_key

TABLE = {  # no credentials, a key, a member
    "POST /register": (422, 422, 422),
    "POST /login": (422, 422, 422),
    "POST /refresh": (401, 401, 401),
    "GET /me": (401, 403, 200),
    "POST /logout": (401, 403, 200),
}


@pytest.mark.parametrize("operation", TABLE)
def test_access_of_account_operations(client: FlaskClient, alice: User, bob: User, operation: str) -> None:
    verb, path = operation.split()
    credentials = ({}, make_key(client, alice), bob.headers)
    responses = [client.open(f"{AUTH}{path}", method=verb, headers=credential) for credential in credentials]
    assert tuple(response.status_code for response in responses) == TABLE[operation]


def test_profile_lists_the_permissions_of_the_role(client: FlaskClient, alice: User, bob: User) -> None:
    permissions = {
        user.role: set(client.get(f"{AUTH}/me", headers=user.headers).json["data"]["permissions"])
        for user in (alice, bob)
    }
    assert {"keys:create", "keys:write", "billing:write", "members:promote"} <= permissions["owner"]
    assert {"keys:create", "messages:read"} <= permissions["member"]
    assert not {"keys:write", "billing:write", "members:promote", "messages:write"} & permissions["member"]


def test_profile_shows_user_and_organizations_without_secrets(client: FlaskClient, bob: User) -> None:
    response = client.get(f"{AUTH}/me", headers=bob.headers)
    data = response.json["data"]
    assert data["user"]["email"] == "bob@acme.example"
    assert data["organizations"] == [{"id": bob.organization_id, "name": "Acme", "role": "member"}]
    assert "argon2" not in response.text


def test_removed_member_is_rejected_on_the_next_request(client: FlaskClient, bob: User, superuser: object) -> None:
    assert client.get(f"{AUTH}/me", headers=bob.headers).status_code == 200
    with superuser, superuser.cursor() as cursor:
        cursor.execute("DELETE FROM memberships WHERE role = 'member'")
    for path in ("/api/v1/auth/me", "/api/v1/keys"):
        response = client.get(path, headers=bob.headers)
        assert (response.status_code, response.json["error"]["code"]) == (401, "INVALID_TOKEN")
