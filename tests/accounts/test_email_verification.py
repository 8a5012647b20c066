"""Verification of an email address with the token of a mailed link."""

from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from saas_api.app import create_app
from saas_api.core import crypto
from tests.support.account_mails import (
    audit_events,
    error_of,
    execute,
    expire_links,
    mail_texts,
    mailed_tokens,
    post_auth,
)
from tests.support.accounts import AUTH, User


def is_verified(client: FlaskClient, user: User) -> bool:
    verified: bool = client.get(f"{AUTH}/me", headers=user.headers).json["data"]["user"]["email_verified"]
    return verified


def test_sign_up_mails_a_welcome_and_a_verification_link(alice: User, superuser: Any) -> None:
    assert len(mail_texts(superuser, "welcome")) == len(mail_texts(superuser, "verify_email")) == 1
    assert execute(superuser, "SELECT count(*) FROM mails") == [(2,)]


def test_link_verifies_the_address_and_is_audited(client: FlaskClient, alice: User, superuser: Any) -> None:
    assert not is_verified(client, alice)
    response = post_auth(client, "/verify-email", token=mailed_tokens(superuser, "verify_email")[0])
    assert (response.status_code, response.json["data"]) == (200, {"email": alice.email, "email_verified": True})
    assert is_verified(client, alice)
    [(actor, _, target, _, is_of_organization)] = audit_events(superuser, "user.email_verified")
    assert (actor, target, is_of_organization) == ("user", "user", True)


def test_only_the_digest_of_a_link_is_stored_for_a_day(alice: User, superuser: Any) -> None:
    [(digest, hours)] = execute(
        superuser, "SELECT digest, round(extract(epoch FROM expires_at - now()) / 3600) FROM user_tokens"
    )
    assert bytes(digest) == crypto.sha256(mailed_tokens(superuser, "verify_email")[0])
    assert hours == 24


def test_both_paths_send_a_new_link_and_revoke_the_older(client: FlaskClient, alice: User, superuser: Any) -> None:
    for path in ("/request-email-verification", "/request-verification"):
        assert post_auth(client, path, alice).status_code == 200
    first, second, third = mailed_tokens(superuser, "verify_email")
    for token in (first, second):
        assert error_of(post_auth(client, "/verify-email", token=token)) == (400, "INVALID_TOKEN")
    assert post_auth(client, "/verify-email", token=third).status_code == 200


def test_unknown_used_expired_and_foreign_tokens_get_the_same_response(
    client: FlaskClient, alice: User, carol: User, superuser: Any
) -> None:
    [used], [expired] = mailed_tokens(superuser, "verify_email"), mailed_tokens(superuser, "verify_email", carol.email)
    assert post_auth(client, "/verify-email", token=used).status_code == 200
    post_auth(client, "/request-password-reset", email=alice.email)
    [foreign] = mailed_tokens(superuser, "reset_password")
    errors = [post_auth(client, "/verify-email", token=token).json["error"] for token in ("x", "x" * 43, used, foreign)]
    expire_links(superuser)
    errors.append(post_auth(client, "/verify-email", token=expired).json["error"])
    assert {(error["code"], error["message"], str(error["details"])) for error in errors} == {
        ("INVALID_TOKEN", "This link is invalid or has expired.", "{}")
    }
    assert not is_verified(client, carol)


def test_link_of_a_disabled_user_is_rejected(client: FlaskClient, alice: User, superuser: Any) -> None:
    execute(superuser, "UPDATE users SET disabled_at = now()")
    assert error_of(post_auth(client, "/verify-email", token=mailed_tokens(superuser, "verify_email")[0])) == (
        400,
        "INVALID_TOKEN",
    )


def test_verified_user_gets_no_further_link(client: FlaskClient, alice: User, superuser: Any) -> None:
    post_auth(client, "/verify-email", token=mailed_tokens(superuser, "verify_email")[0])
    assert error_of(post_auth(client, "/request-email-verification", alice)) == (409, "ALREADY_VERIFIED")
    assert len(mail_texts(superuser, "verify_email")) == 1


def test_fourth_verification_link_within_an_hour_is_rejected_on_both_paths(client: FlaskClient, alice: User) -> None:
    for path in ("/request-email-verification", "/request-verification", "/request-verification"):
        assert post_auth(client, path, alice).status_code == 200
    for path in ("/request-email-verification", "/request-verification"):
        assert error_of(post_auth(client, path, alice)) == (429, "RATE_LIMIT_EXCEEDED")


def test_attempts_with_one_time_tokens_are_limited(app: Flask, config: dict[str, Any]) -> None:
    strict = create_app({**config, "AUTH_ALLOWANCE_FACTOR": 1}).test_client()
    statuses = [post_auth(strict, "/verify-email", token=f"guess{number}").status_code for number in range(21)]
    assert statuses == [400] * 20 + [429]
