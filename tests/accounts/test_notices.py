"""Notices: mails about changes that an intruder would make."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.account_mails import NEW_PASSWORD, execute, mail_texts, mailed_tokens, operator_link
from tests.support.accounts import AUTH, PASSWORD, User, add_member

HOOK = "https://hooks.acme.example/in?token=secret"
ALICE, BOB, OSCAR = "alice@acme.example", "bob@acme.example", "oscar@platform.example"


@pytest.fixture
def verified(superuser: Any, alice: User, bob: User) -> None:
    """The addresses of alice and bob are verified, so that notices to them have facts."""
    execute(superuser, "UPDATE users SET email_verified_at = now()")


def notices(superuser: Any, to: str) -> list[str]:
    """Texts of the notices to an address, the oldest first, each on one line."""
    return [" ".join(text.split()) for text in mail_texts(superuser, "security_notice", to)]


def recipients(superuser: Any) -> list[str]:
    rows = execute(superuser, "SELECT DISTINCT recipient FROM mails WHERE template = 'security_notice'")
    return sorted(recipient for (recipient,) in rows)


@pytest.mark.usefixtures("verified")
def test_changed_password_is_mailed_to_the_user(superuser: Any, alice: User) -> None:
    """R14: a user got no mail about a changed or reset password, role, webhook or spend cap."""
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert alice.call("POST", "/auth/change-password", **body)[0] == 200
    [text] = notices(superuser, ALICE)
    assert "Your password was changed." in text
    assert "IP address: 127.0.0.1" in text
    assert "Choose a new password now" in text
    assert "/forgot-password" in text


@pytest.mark.usefixtures("verified")
def test_reset_password_is_mailed_to_the_user(client: FlaskClient, superuser: Any, alice: User) -> None:
    client.post(f"{AUTH}/request-password-reset", json={"email": ALICE})
    [token] = mailed_tokens(superuser, "reset_password")
    client.post(f"{AUTH}/reset-password", json={"token": token, "new_password": NEW_PASSWORD})
    [text] = notices(superuser, ALICE)
    assert "Your password was reset." in text
    assert "Secure your mailbox first" in text


def test_wrong_password_sends_no_notice(superuser: Any, alice: User) -> None:
    alice.call("POST", "/auth/change-password", current_password="guess", new_password=NEW_PASSWORD)
    assert recipients(superuser) == []


@pytest.mark.usefixtures("verified")
def test_changed_role_is_mailed_to_the_member_and_the_owner(superuser: Any, alice: User, bob: User) -> None:
    add_member(alice, "carl@acme.example", "member")
    assert alice.call("PUT", f"/team/members/{bob.user_id}/role", role="viewer")[0] == 200
    assert recipients(superuser) == [ALICE, BOB]
    [text] = notices(superuser, BOB)
    assert "Member: Bob (bob@acme.example) Role: viewer, before member By: Alice (alice@acme.example)" in text
    alice.call("PUT", f"/team/members/{bob.user_id}/role", role="viewer")
    assert len(notices(superuser, BOB)) == 1, "the role stayed"


@pytest.mark.usefixtures("verified")
def test_transferred_ownership_is_mailed_to_both_owners(superuser: Any, alice: User, bob: User) -> None:
    assert alice.call("POST", "/team/transfer-ownership", user_id=bob.user_id)[0] == 200
    assert recipients(superuser) == [ALICE, BOB]
    assert (
        "The ownership was transferred. Organization: Acme Member: Bob (bob@acme.example)"
        in notices(superuser, ALICE)[0]
    )


@pytest.mark.usefixtures("verified")
def test_removal_is_mailed_to_the_removed_member(superuser: Any, alice: User, bob: User) -> None:
    assert alice.call("DELETE", f"/team/members/{bob.user_id}")[0] == 200
    assert "A member was removed." in notices(superuser, BOB)[0]


def test_new_operator_is_mailed_to_the_user_and_to_admin_operators(app: Flask, superuser: Any, olga: User) -> None:
    runner = app.test_cli_runner()
    for email, role in ((OSCAR, "admin"), ("sam@platform.example", "support")):
        operator_link(app, email)
        execute(superuser, "UPDATE users SET email_verified_at = now()")
        assert runner.invoke(args=["operator", "create", email, "--role", role]).exit_code == 0
    assert "User: sam@platform.example Operator role: support, before none" in notices(superuser, OSCAR)[-1]
    assert "An operator role was changed." in notices(superuser, "sam@platform.example")[0]
    assert runner.invoke(args=["operator", "revoke", "sam@platform.example"]).exit_code == 0
    assert "Operator role: none, before support" in notices(superuser, OSCAR)[-1]


@pytest.mark.usefixtures("verified")
def test_changes_of_webhook_endpoints_are_mailed_to_the_owner_and_the_caller(
    app: Flask, superuser: Any, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "WEBHOOK_ALLOWED_NETWORKS", ["0.0.0.0/0"])
    adam = add_member(alice, "adam@acme.example", "admin")
    _, endpoint = adam.call("POST", "/webhooks/endpoints", url=HOOK)
    path = f"/webhooks/endpoints/{endpoint['id']}"
    assert adam.call("PATCH", path, url="https://elsewhere.example/in")[0] == 200
    assert adam.call("POST", f"{path}/rotate-secret")[0] == 200
    assert adam.call("DELETE", path)[0] == 200
    assert recipients(superuser) == ["adam@acme.example", ALICE]
    texts = notices(superuser, ALICE)
    words = ["endpoint was created", "Changed: url", "secret of a webhook endpoint was rotated", "endpoint was deleted"]
    assert [word in text for word, text in zip(words, texts, strict=True)] == [True] * 4
    assert "token=secret" not in "".join(texts)
    assert "By: adam@acme.example" in texts[0]
    assert [f"/dashboard/webhooks/{endpoint['id']} " in text for text in texts] == [True, True, True, False]


@pytest.mark.usefixtures("verified")
def test_changed_spend_cap_is_mailed_to_the_owner(superuser: Any, alice: User) -> None:
    assert alice.call("PUT", "/billing/spend-cap", amount="250.00", action="alert")[0] == 200
    [text] = notices(superuser, ALICE)
    assert "Before: $100.00 a period, then calls are refused" in text
    assert "Now: $250.00 a period, then only an alert" in text


def test_notice_of_a_change_that_fails_is_not_sent(superuser: Any, alice: User) -> None:
    assert alice.call("PUT", "/billing/spend-cap", amount="-1", action="alert")[0] == 422
    assert recipients(superuser) == []
