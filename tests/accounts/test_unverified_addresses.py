"""Addresses that nobody has verified: they get no text that a stranger chose, and their accounts are limited."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support.account_mails import NEW_PASSWORD, execute, mailed_tokens
from tests.support.accounts import AUTH, PASSWORD, User, make_key, sign_up

BAIT = "Win a prize"
VICTIM = "dave@customer.example"


def mails_to(superuser: Any, address: str) -> list[str]:
    query = "SELECT subject || text_body || html_body FROM mails WHERE recipient = %s ORDER BY id"
    return [text for (text,) in execute(superuser, query, address)]


def sign_up_victim(client: FlaskClient) -> User:
    return sign_up(client, VICTIM, BAIT, full_name=BAIT)


def test_sign_up_mails_no_text_of_a_stranger(client: FlaskClient, superuser: Any) -> None:
    """R9: sign-up and invitations mailed names that a stranger chose to any address, with the product as sender."""
    sign_up_victim(client)
    texts = mails_to(superuser, VICTIM)
    assert len(texts) == 2
    assert BAIT not in "".join(texts)


def test_invitation_mails_no_text_of_a_stranger(client: FlaskClient, superuser: Any) -> None:
    inviter = sign_up(client, "mallory@else.example", BAIT, full_name=BAIT)
    assert inviter.call("POST", "/team/invite", email=VICTIM, role="member")[0] == 201
    [text] = mails_to(superuser, VICTIM)
    assert BAIT not in text
    assert "mallory@else.example invited you" in text
    [token] = mailed_tokens(superuser, "invitation", VICTIM)
    assert BAIT in client.get(f"/accept-invitation?token={token}").text, "the page names the organization"


def test_other_mails_to_an_unverified_address_have_no_text_of_a_stranger(client: FlaskClient, superuser: Any) -> None:
    victim = sign_up_victim(client)
    execute(superuser, "UPDATE user_sessions SET ip = '192.0.2.7'")
    body = {"email": VICTIM, "password": PASSWORD}
    assert client.post(f"{AUTH}/login", json=body, headers={"User-Agent": BAIT}).status_code == 200
    make_key(client, victim, name=BAIT)
    assert victim.call("PUT", "/billing/spend-cap", amount=None, action="alert")[0] == 200
    client.post(f"{AUTH}/request-password-reset", json={"email": VICTIM})
    changed = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert victim.call("POST", "/auth/change-password", **changed)[0] == 200
    texts = mails_to(superuser, VICTIM)
    assert len(texts) == 7
    assert BAIT not in "".join(texts)


def test_verified_address_gets_names_and_facts(client: FlaskClient, superuser: Any) -> None:
    user = sign_up_victim(client)
    execute(superuser, "UPDATE users SET email_verified_at = now()")
    make_key(client, user, name="Night batch")
    text = mails_to(superuser, VICTIM)[-1]
    assert f"Hello {BAIT}" in text
    assert "Night batch" in text


def test_unverified_account_invites_nobody_where_verification_is_required(
    app: Flask, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.config, "REQUIRE_VERIFIED_EMAIL", True)
    assert alice.call("POST", "/team/invite", email=VICTIM, role="member") == (403, "EMAIL_NOT_VERIFIED")
