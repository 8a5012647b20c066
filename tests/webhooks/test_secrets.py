"""Signing secrets of endpoints: encryption, rotation and grace periods."""

import threading
from typing import Any

import pytest
from flask import Flask

from saas_api.cli.commands import doctor
from saas_api.cli.commands.doctor import FAIL, OK, WARN
from saas_api.core import ids
from saas_api.core.crypto import DecryptionFailed
from saas_api.core.db import tenancy
from saas_api.webhooks import secrets
from tests.support.webhooks import ENDPOINTS, WebhookOrganization


def test_secret_is_stored_encrypted_and_read_for_signing(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    [row] = acme.rows("SELECT secret_encrypted FROM webhook_secrets")
    assert created["secret"].encode() not in bytes(row.secret_encrypted)
    assert active_secrets(acme, created["id"]) == [created["secret"]]


def active_secrets(acme: WebhookOrganization, endpoint_id: str) -> list[str]:
    with acme.app.app_context(), tenancy.tenant_session(acme.id) as session:
        return secrets.list_active_secrets(session, acme.id, ids.parse_id("whe", endpoint_id))


def test_previous_secret_is_active_during_the_grace_period(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    response = acme.call("POST", f"/endpoints/{created['id']}/rotate-secret", {"grace_seconds": 600})
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
    new = response.json["data"]["secret"]
    assert active_secrets(acme, created["id"]) == [new, created["secret"]]
    acme.execute("UPDATE webhook_secrets SET expires_at = now() - interval '1 s' WHERE expires_at IS NOT NULL")
    assert active_secrets(acme, created["id"]) == [new]


def test_rotation_without_grace_expires_every_older_secret(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    acme.call("POST", f"/endpoints/{created['id']}/rotate-secret", {})
    response = acme.call("POST", f"/endpoints/{created['id']}/rotate-secret", {"grace_seconds": 0})
    assert active_secrets(acme, created["id"]) == [response.json["data"]["secret"]]


def test_at_most_three_secrets_are_active(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    new_secrets = [
        acme.call("POST", f"/endpoints/{created['id']}/rotate-secret", {}).json["data"]["secret"] for _ in range(3)
    ]
    assert active_secrets(acme, created["id"]) == new_secrets[::-1]


@pytest.mark.parametrize("grace_seconds", [-1, 604_801, "60", 1.5, True, None])
def test_invalid_grace_period_is_rejected(acme: WebhookOrganization, grace_seconds: Any) -> None:
    created = acme.create_endpoint()
    response = acme.call("POST", f"/endpoints/{created['id']}/rotate-secret", {"grace_seconds": grace_seconds})
    assert (response.status_code, response.json["error"]["code"]) == (422, "VALIDATION_ERROR")


def test_concurrent_rotations_leave_one_secret_without_expiry(acme: WebhookOrganization) -> None:
    created = acme.create_endpoint()
    barrier, responses = threading.Barrier(4), []

    def rotate() -> None:
        client = acme.app.test_client()
        barrier.wait(10)
        path = f"{ENDPOINTS}/{created['id']}/rotate-secret"
        responses.append(client.post(path, json={}, headers=acme.owner.headers).status_code)

    threads = [threading.Thread(target=rotate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert responses == [200] * 4
    assert len(acme.rows("SELECT FROM webhook_secrets WHERE expires_at IS NULL")) == 1
    assert len(active_secrets(acme, created["id"])) == 3


def test_secret_is_reencrypted_under_a_new_secret_key(
    acme: WebhookOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = acme.create_endpoint()
    old = acme.app.config["SECRET_KEY"]
    monkeypatch.setitem(acme.app.config, "SECRET_KEY", "n" * 32 + "," + old)
    assert active_secrets(acme, created["id"]) == [created["secret"]]
    with acme.app.app_context():
        assert secrets.reencrypt_secrets() == 1
    monkeypatch.setitem(acme.app.config, "SECRET_KEY", "n" * 32)
    assert active_secrets(acme, created["id"]) == [created["secret"]]
    monkeypatch.setitem(acme.app.config, "SECRET_KEY", old)
    with pytest.raises(DecryptionFailed):
        active_secrets(acme, created["id"])


def test_stored_secret_under_an_old_secret_key_is_a_warning_and_under_none_a_failure(
    acme: WebhookOrganization, context: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme.create_endpoint()
    old = context.config["SECRET_KEY"]
    assert doctor.check_secret_key().state == OK
    monkeypatch.setitem(context.config, "SECRET_KEY", "n" * 32 + "," + old)
    assert doctor.check_secret_key().state == WARN
    assert context.test_cli_runner().invoke(args=["secrets", "reencrypt"]).exit_code == 0
    assert (doctor.check_secret_key().state, "older ones may go" in doctor.check_secret_key().what) == (OK, True)
    monkeypatch.setitem(context.config, "SECRET_KEY", old)
    assert doctor.check_secret_key().state == FAIL
