"""The keys of members who are removed, demoted or disabled."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from saas_api.api_keys import keys
from saas_api.core import ids
from saas_api.core.db import tenancy
from saas_api.core.errors import Forbidden
from tests.support.accounts import Headers, User, add_member, create_key
from tests.support.pages import Browser
from tests.support.team import audit_events, principal_of

LIST = "/api/v1/usage"


def status(client: FlaskClient, key: Headers) -> int:
    return client.get(LIST, headers=key).status_code


def key_of(user: User, key_id: str) -> Any:
    code, key = user.call("GET", f"/keys/{key_id}")
    assert code == 200
    return key


def test_removal_revokes_the_keys_of_the_member(client: FlaskClient, alice: User, bob: User) -> None:
    """R11: the keys of a removed member went on sending, and no list showed them."""
    own_id, own = create_key(client, bob)
    _, other = create_key(client, alice)
    assert alice.call("DELETE", f"/team/members/{bob.user_id}") == (
        200,
        {"revoked_keys": [own_id], "handed_over_keys": []},
    )
    assert (status(client, own), status(client, other)) == (401, 200)
    assert [event["target"]["id"] for event in audit_events(alice, action="api_key.revoked")] == [own_id]


def test_keys_may_be_handed_over_instead(client: FlaskClient, alice: User, bob: User) -> None:
    key_id, key = create_key(client, bob)
    path = f"/team/members/{bob.user_id}?revoke_keys=false"
    assert alice.call("DELETE", path) == (200, {"revoked_keys": [], "handed_over_keys": [key_id]})
    assert status(client, key) == 200
    key_now = key_of(alice, key_id)
    assert (key_now["created_by"], key_now["is_orphaned"]) == (alice.user_id, False)
    [event] = audit_events(alice, action="api_key.handed_over")
    assert event["target"]["id"] == key_id


def test_keys_in_other_organizations_stay(client: FlaskClient, alice: User, bob: User, carol: User) -> None:
    _, elsewhere = create_key(client, add_member(carol, bob.email, "member"))
    assert alice.call("DELETE", f"/team/members/{bob.user_id}")[0] == 200
    assert status(client, elsewhere) == 200


@pytest.mark.parametrize("role", ["viewer", "billing"])
def test_keys_of_a_demoted_member_are_marked(
    app: Flask, client: FlaskClient, alice: User, bob: User, role: str
) -> None:
    key_id, key = create_key(client, bob)
    assert key_of(alice, key_id)["is_orphaned"] is False
    assert alice.call("PUT", f"/team/members/{bob.user_id}/role", role=role)[0] == 200
    marked = key_of(alice, key_id)
    assert (marked["created_by"], marked["is_orphaned"]) == (bob.user_id, True)
    assert status(client, key) == 200
    browser = Browser(app, alice)
    assert "No access" in browser.open("/dashboard/api-keys").text
    assert "has left, is disabled or can no longer create keys" in browser.open(f"/dashboard/api-keys/{key_id}").text


def test_keys_of_a_disabled_member_are_marked(app: Flask, client: FlaskClient, alice: User, bob: User) -> None:
    key_id, _ = create_key(client, bob)
    app.test_cli_runner().invoke(args=["users", "disable", bob.email, "--keep-keys", "--reason", "ticket 4711"])
    assert key_of(alice, key_id)["is_orphaned"] is True


def test_dialogue_of_the_removal_shows_the_keys(app: Flask, client: FlaskClient, alice: User, bob: User) -> None:
    _, own = create_key(client, bob, name="Night <batch>")
    browser, page = Browser(app, alice), f"/dashboard/team/members/{bob.user_id}/remove"
    assert browser.form(page)["keys"] == ["revoke"]
    assert "Night &lt;batch&gt;" in browser.open(page).text
    response = browser.submit(page, typed=bob.email)
    assert response.status_code == 303
    assert "Revoked: 1 API key." in browser.open(response.location).text
    assert status(client, own) == 401


def test_dialogue_of_the_removal_hands_keys_over(app: Flask, client: FlaskClient, alice: User, bob: User) -> None:
    _, own = create_key(client, bob)
    page = f"/dashboard/team/members/{bob.user_id}/remove"
    assert Browser(app, alice).submit(page, typed=bob.email, keys="hand_over").status_code == 303
    assert status(client, own) == 200


def test_dialogue_without_keys_asks_nothing_about_them(app: Flask, alice: User, bob: User) -> None:
    browser, page = Browser(app, alice), f"/dashboard/team/members/{bob.user_id}/remove"
    assert "keys" not in browser.form(page)
    assert browser.submit(page, typed=bob.email).status_code == 303


def test_key_that_is_created_during_the_removal_does_not_survive(app: Flask, alice: User, bob: User) -> None:
    organization_id, user_id = ids.parse_id("org", alice.organization_id), ids.parse_id("usr", bob.user_id)
    is_created = threading.Event()

    def create() -> None:
        with app.app_context(), tenancy.tenant_session(organization_id) as session:
            keys.create_key(session, organization_id, principal_of(bob, "member"), name="late")
            is_created.set()
            assert not wait([removal], timeout=0.3).done, "the removal waits"

    def remove() -> keys.RemovedMemberKeys:
        assert is_created.wait(5)
        with app.app_context(), tenancy.tenant_session(organization_id) as session:
            return keys.remove_member(session, principal_of(alice), user_id, revokes_keys=True)

    with ThreadPoolExecutor(1) as pool:
        removal = pool.submit(remove)
        create()
        assert len(removal.result(10).revoked_keys) == 1
    with (
        app.app_context(),
        pytest.raises(Forbidden),
        tenancy.tenant_session(organization_id) as session,
    ):
        keys.create_key(session, organization_id, principal_of(bob, "member"), name="later")
