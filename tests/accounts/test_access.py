"""Who may call what of this room, and by which credential."""

import pytest
from flask.testing import FlaskClient

from tests.support.accounts import AUTH, Person, make_key

TABLE = {  # nobody, a key, a member
    "POST /register": (422, 422, 422),
    "POST /login": (422, 422, 422),
    "POST /refresh": (401, 401, 401),
    "GET /me": (401, 403, 200),
    "POST /logout": (401, 403, 200),
}


@pytest.mark.parametrize("operation", TABLE)
def test_the_access_table_holds(client: FlaskClient, alice: Person, bob: Person, operation: str) -> None:
    verb, path = operation.split()
    credentials = ({}, make_key(client, alice), bob.headers)
    answers = [client.open(f"{AUTH}{path}", method=verb, headers=credential) for credential in credentials]
    assert tuple(answer.status_code for answer in answers) == TABLE[operation]


def test_me_tells_each_what_they_may_do(client: FlaskClient, alice: Person, bob: Person) -> None:
    seen = {who.role: client.get(f"{AUTH}/me", headers=who.headers).json["data"]["permissions"] for who in (alice, bob)}
    assert {"keys:create", "keys:write", "billing:write", "members:promote"} <= set(seen["owner"])
    assert {"keys:create", "messages:read"} <= set(seen["member"])
    assert not {"keys:write", "billing:write", "members:promote", "messages:write"} & set(seen["member"])


def test_me_shows_the_person_and_their_organizations_and_no_secret(client: FlaskClient, bob: Person) -> None:
    answer = client.get(f"{AUTH}/me", headers=bob.headers)
    data = answer.json["data"]
    assert data["user"]["email"] == "bob@acme.example"
    assert data["organizations"] == [{"id": bob.organization_id, "name": "Acme", "role": "member"}]
    assert "argon2" not in answer.text


def test_a_removed_member_is_out_on_the_next_request(client: FlaskClient, bob: Person, superuser: object) -> None:
    assert client.get(f"{AUTH}/me", headers=bob.headers).status_code == 200
    with superuser, superuser.cursor() as cursor:
        cursor.execute("DELETE FROM memberships WHERE role = 'member'")
    for path in ("/api/v1/auth/me", "/api/v1/keys"):
        answer = client.get(path, headers=bob.headers)
        assert (answer.status_code, answer.json["error"]["code"]) == (401, "INVALID_TOKEN")
